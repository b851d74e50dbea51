"""A plan: a step of the ladder for each feature within a budget, and the words that say why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimtab.config import Rule
from slimtab.planning.allocate import allocate
from slimtab.planning.noise import surely_less
from slimtab.planning.options import Option
from slimtab.planning.sensitivity import Mixtures
from slimtab.schema import Feature
from slimtab.sizes import format_bytes

_ROUNDS = 4  # of measuring and moving; the second seldom moves anything


@dataclass(frozen=True)
class Entrant:
    """What was trained for comparison.

    Attributes:
        name: ``plan``, or the method.
        rules: that make the tables.
        logloss: of the validation rows, nats.
        auc: of the validation rows.
        nbytes: serving bytes.
    """

    name: str
    rules: list[Rule]
    logloss: float
    auc: float
    nbytes: int


@dataclass(frozen=True)
class Plan:
    """Which feature gets what.

    Attributes:
        features: all of them.
        dim: embedding width.
        ladder: the steps.
        steps: the step of each feature.
        loss: nats that moving one feature to another step would lose [F, S]; below zero where it would gain.
    """

    features: Sequence[Feature]
    dim: int
    ladder: Sequence[Option]
    steps: Sequence[int]
    loss: NDArray[np.float64]

    @classmethod
    def make(cls, mixtures: Mixtures, budget: int, told: Callable[[], object] = lambda: None) -> Plan:
        """Return the plan that loses least within ``budget`` bytes.

        It begins with the finest step that all features can stand on, measures what each would lose or gain
        elsewhere, and moves as long as all moves together better the loss by more than its noise.

        Args:
            mixtures: the trained model on a ladder made for the budget.
            budget: serving bytes.
            told: called after each feature that is measured.
        """
        features, dim, ladder = mixtures.features, mixtures.dim, mixtures.ladder
        nbytes = np.array([[option.nbytes(f.num_ids, dim) for option in ladder] for f in features])
        shared = np.array([option.shared(dim) for option in ladder])
        alike = nbytes.sum(axis=0) + shared
        steps = [int(np.flatnonzero(alike <= budget)[-1])] * len(features)
        least, loss = mixtures.losses(steps), mixtures.sensitivity(steps, told)
        for _ in range(_ROUNDS):
            moved = allocate(loss, nbytes, shared, budget)
            if moved is None or moved == steps or not surely_less(lost := mixtures.losses(moved), least):
                break
            steps, least, loss = moved, lost, mixtures.sensitivity(moved, told)
        return cls(features, dim, ladder, steps, loss)

    def rules(self) -> list[Rule]:
        """Return a rule for each step in use, smallest first."""
        groups = [(step, [f for f, at in self._placed() if at == step]) for step in sorted(set(self.steps))]
        return [
            self.ladder[step].rule([f.name for f in group], sum(f.num_ids for f in group), self.dim)
            for step, group in groups
        ]

    @property
    def uniform(self) -> bool:
        """Whether all features stand on the same step."""
        return len(set(self.steps)) == 1

    @property
    def shared_bytes(self) -> int:
        """Bytes of the codewords of all steps in use."""
        return sum(self.ladder[step].shared(self.dim) for step in set(self.steps))

    def rows(self) -> list[tuple[str, ...]]:
        """Return the plan as a table with a head: feature, ids, step, bytes, why."""
        lines: list[tuple[str, ...]] = [("feature", "ids", "gets", "bytes", "why")]
        for number, (feature, step) in enumerate(self._placed()):
            size = self.ladder[step].nbytes(feature.num_ids, self.dim)
            lines.append(
                (
                    feature.name,
                    f"{feature.num_ids:,}",
                    self.ladder[step].name,
                    format_bytes(size),
                    self._why(number, feature, step),
                )
            )
        return lines

    def _placed(self) -> list[tuple[Feature, int]]:
        return list(zip(self.features, self.steps, strict=True))

    def _why(self, number: int, feature: Feature, step: int) -> str:
        """Say what a step down and a step up would change."""
        loss, ids, words = self.loss[number], feature.num_ids, []
        if step:
            saved = self.ladder[step].nbytes(ids, self.dim) - self.ladder[step - 1].nbytes(ids, self.dim)
            words.append(
                f"{self.ladder[step - 1].name} would {_change(loss[step - 1])} and save {format_bytes(saved)}"
            )
        if step + 1 < len(self.ladder):
            more = self.ladder[step + 1].nbytes(ids, self.dim) - self.ladder[step].nbytes(ids, self.dim)
            words.append(
                f"{self.ladder[step + 1].name} would {_change(loss[step + 1])} for {format_bytes(more)} more"
            )
        return "; ".join(words)


def _change(loss: float) -> str:
    """Write a change of logloss; what is below 0.000005 is nothing."""
    if abs(loss) < 5e-6:
        return "change nothing"
    return f"lose {loss:.5f}" if loss > 0 else f"gain {-loss:.5f}"
