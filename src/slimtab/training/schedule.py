"""When rates fall, when a stage ends, and which weights it keeps: all by validation logloss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

_LOWER = 0.1  # what a fall leaves of the rates


@dataclass
class Schedule:
    """Rates stay as they are for as long as that brings something, then fall to a tenth, and so on.

    At constant rates gains are small next to the noise of validations, so ``patience`` of them in a row may
    bring nothing. At the next one rates begin to fall in a straight line, from the best weights: that takes
    most of the noise away, whatever training has got to by then (Hu et al. 2024, MiniCPM, §4: warm-up,
    stable, decay). Decay of rows falls with their rate, so from then on a row remembers for longer. Where few
    ids share a row, it soon remembers too much, and the stage is over; where many do, lower rates go on to
    bring gains for many passes. So they stay low until the first validation without one, and fall again as
    before, until a fall brings nothing. Where the steps run out first, rates fall to nothing at their end.

    All steps are counted from where the stage began.

    Attributes:
        steps: steps the stage may take.
        every: steps between validations.
        patience: validations in a row without a gain that are borne before rates fall first.
        cooldown: steps that a fall takes.
        falls_at: the step at which rates last began to fall; ``steps`` until they do.
        ends: steps after which the stage is over.
        high: what rates are multiplied by where the last fall began.
        best: lowest logloss so far.
        bad: validations since then.
        gained: whether any validation since rates last began to fall was the best.
        goes_back: whether training goes on from the best weights after the last validation.
    """

    steps: int
    every: int
    patience: int
    cooldown: int
    falls_at: int
    ends: int
    high: float = 1.0
    best: float = math.inf
    bad: int = 0
    gained: bool = False
    goes_back: bool = False

    @classmethod
    def of(cls, steps: int, every: int, patience: int, cooldown: int) -> Schedule:
        """Return the schedule of a stage of ``steps`` steps.

        Args:
            steps: steps the stage may take.
            every: steps between validations.
            patience: validations in a row without a gain that are borne before rates fall first.
            cooldown: validations that a fall takes; half of the stage at most.
        """
        length = max(1, min(cooldown * every, steps // 2))
        return cls(steps, every, patience, length, steps, steps)

    def update(self, step: int, logloss: float) -> bool:
        """Take the validation after ``step`` in, and return whether it is the best so far."""
        self.goes_back = False
        if logloss < self.best:
            self.best, self.bad, self.gained = logloss, 0, True
            return True
        self.bad += 1
        if step < self.falls_at:
            if self.bad > self.patience:
                self._fall(step)
        elif step >= self.falls_at + self.cooldown:
            if self.gained:
                self.high *= _LOWER
                self._fall(step)
            else:
                self.end(step)
        return False

    def _fall(self, step: int) -> None:
        self.falls_at, self.gained, self.goes_back = step, False, True

    def scale(self, step: int) -> float:
        """Return what rates are multiplied by in the step after ``step`` steps, above 0 and at most 1."""
        fallen = min(1.0, max(0, step - self.falls_at) / self.cooldown)
        left = min(1.0, (self.steps - step) / self.cooldown)
        return self.high * (1 - fallen + _LOWER * fallen) * left

    def end(self, step: int) -> None:
        """Let the stage end after ``step`` steps."""
        self.ends = step

    def validates(self, step: int) -> bool:
        """Whether there is a validation after ``step`` steps."""
        return step % self.every == 0 or step == self.ends

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)
