"""Early stopping and learning-rate drops, both on validation logloss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Plateau:
    """Counts validations in a row that brought nothing, twice over.

    At the rate a stage begins with, gains are small next to the noise of validations, and what drops early
    never gets as far: as many as patience allows are borne before the rate drops for the first time. From
    then on it drops at each, and the stage ends when patience is used up again. What never drops keeps the
    noise: so the rate drops near the end of the stage if it has not before.

    Attributes:
        patience: how many in a row are allowed.
        best: lowest logloss so far.
        bad: validations since then at which the rate dropped.
        drops: whether it drops after the last validation.
        dropped: whether it ever did.
        spared: validations since the best that were borne.
    """

    patience: int
    best: float = math.inf
    bad: int = 0
    drops: bool = False
    dropped: bool = False
    spared: int = 0

    def update(self, logloss: float, closing: bool = False) -> bool:
        """Take one validation in and return whether it is the best so far; ``closing`` near the end."""
        better = logloss < self.best
        if better:
            self.best, self.bad, self.spared = logloss, 0, 0
        elif self.dropped or self.spared == self.patience:
            self.bad += 1
        else:
            self.spared += 1
        self.drops = self.bad > 0 or (closing and not self.dropped)
        self.dropped |= self.drops
        return better

    @property
    def stop(self) -> bool:
        """Whether patience is used up for the second time."""
        return self.bad > self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)
