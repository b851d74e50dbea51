"""Early stopping and learning-rate drops, both on validation logloss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Plateau:
    """Counts validations that brought nothing.

    Attributes:
        patience: how many in a row are allowed.
        best: lowest logloss so far.
        bad: validations since then.
    """

    patience: int
    best: float = math.inf
    bad: int = 0

    def update(self, logloss: float) -> bool:
        """Take one validation in and return whether it is the best so far."""
        if logloss < self.best:
            self.best, self.bad = logloss, 0
            return True
        self.bad += 1
        return False

    @property
    def stop(self) -> bool:
        """Whether patience is used up."""
        return self.bad > self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)
