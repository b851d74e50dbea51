"""When rates fall, when a stage ends and which weights it keeps: all by validation logloss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Schedule:
    """Rates stay as they are for as long as that brings something, then fall to nothing in a straight line.

    At constant rates gains are small next to the noise of validations, so ``patience`` of them in a row may
    bring nothing. At the next one rates begin to fall, from the best weights. They fall at the end of the
    steps there are in any case: that takes most of the noise away, whatever training has got to by then
    (Hu et al. 2024, MiniCPM, §4: warm-up, stable, decay). All steps are counted from where the stage began.

    Attributes:
        steps: steps the stage may take.
        every: steps between validations.
        patience: validations in a row without a gain that are borne.
        cooldown: steps over which rates fall.
        falls_at: the step at which they begin to.
        best: lowest logloss so far.
        bad: validations since then.
        goes_back: whether training goes on from the best weights after the last validation.
    """

    steps: int
    every: int
    patience: int
    cooldown: int
    falls_at: int
    best: float = math.inf
    bad: int = 0
    goes_back: bool = False

    @classmethod
    def of(cls, steps: int, every: int, patience: int, cooldown: int) -> Schedule:
        """Return the schedule of a stage of ``steps`` steps.

        Args:
            steps: steps the stage may take.
            every: steps between validations.
            patience: validations in a row without a gain that are borne.
            cooldown: validations during which rates fall; half of the stage at most.
        """
        length = max(1, min(cooldown * every, steps // 2))
        return cls(steps, every, patience, length, steps - length)

    def update(self, step: int, logloss: float) -> bool:
        """Take the validation after ``step`` in, and return whether it is the best so far."""
        better = logloss < self.best
        if better:
            self.best, self.bad = logloss, 0
        else:
            self.bad += 1
        self.goes_back = self.bad > self.patience and step < self.falls_at
        if self.goes_back:
            self.falls_at = step
        return better

    def scale(self, step: int) -> float:
        """Return what rates are multiplied by in the step after ``step`` steps, above 0 and at most 1."""
        return min(1.0, (self.ends - step) / self.cooldown)

    def end(self, step: int) -> None:
        """Let the stage end after ``step`` steps."""
        self.falls_at = step - self.cooldown

    @property
    def ends(self) -> int:
        """Steps after which the stage is over."""
        return self.falls_at + self.cooldown

    def validates(self, step: int) -> bool:
        """Whether there is a validation after ``step`` steps."""
        return step % self.every == 0 or step == self.ends

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)
