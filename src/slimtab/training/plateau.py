"""Early stopping and learning-rate drops, both on validation logloss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Plateau:
    """Counts validations that brought nothing.

    At the rate a stage begins with, validations are noisy, and one without a better logloss may be chance: it
    is not counted unless another follows. What drops too early never gets as far.

    Attributes:
        patience: how many in a row are allowed.
        best: lowest logloss so far.
        bad: counted validations since then; the learning rate drops at each.
        dropped: whether any was ever counted.
        spared: whether the last one was not counted.
    """

    patience: int
    best: float = math.inf
    bad: int = 0
    dropped: bool = False
    spared: bool = False

    def update(self, logloss: float) -> bool:
        """Take one validation in and return whether it is the best so far."""
        if logloss < self.best:
            self.best, self.bad, self.spared = logloss, 0, False
            return True
        if self.dropped or self.spared:
            self.bad, self.dropped = self.bad + 1, True
        else:
            self.spared = True
        return False

    @property
    def stop(self) -> bool:
        """Whether patience is used up."""
        return self.bad > self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)
