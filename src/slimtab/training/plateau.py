"""Early stopping and learning-rate drops, both on validation logloss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Plateau:
    """Counts validations that brought nothing.

    At the rate a stage begins with, validations are noisy, and one without a better logloss may be chance: it
    is not counted unless another follows. What drops too early never gets as far, and what never drops keeps
    the noise: so the rate drops near the end of the stage if it has not before.

    Attributes:
        patience: how many in a row are allowed.
        best: lowest logloss so far.
        bad: counted validations since then.
        drops: whether the learning rate drops after the last validation: at each that is counted, and once
            near the end.
        dropped: whether it ever did.
        spared: whether the last one was not counted.
    """

    patience: int
    best: float = math.inf
    bad: int = 0
    drops: bool = False
    dropped: bool = False
    spared: bool = False

    def update(self, logloss: float, closing: bool = False) -> bool:
        """Take one validation in and return whether it is the best so far; ``closing`` near the end."""
        better = logloss < self.best
        if better:
            self.best, self.bad, self.spared = logloss, 0, False
        elif self.dropped or self.spared:
            self.bad += 1
        else:
            self.spared = True
        self.drops = self.bad > 0 or (closing and not self.dropped)
        self.dropped |= self.drops
        return better

    @property
    def stop(self) -> bool:
        """Whether patience is used up."""
        return self.bad > self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)
