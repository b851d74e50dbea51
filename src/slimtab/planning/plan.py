"""A plan: a step of the ladder for each feature within a budget, and the words that say why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slimtab.config import Rule
from slimtab.planning.allocate import allocate
from slimtab.planning.noise import surely_less
from slimtab.planning.options import FULL, Ladder, Option
from slimtab.planning.sensitivity import Mixtures
from slimtab.schema import Feature
from slimtab.sizes import format_bytes
from slimtab.tables.parts.packing import PADDING

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
    ladder: Ladder
    steps: Sequence[int]
    loss: NDArray[np.float64]

    @classmethod
    def make(cls, mixtures: Mixtures, budget: int, told: Callable[[], object] = lambda: None) -> Plan:
        """Return the plan that loses least within ``budget`` bytes.

        It begins with what `rq` would choose by itself, measures what each feature would lose or gain
        elsewhere, and moves as long as all moves together better the loss by more than its noise.

        Args:
            mixtures: the trained model on a ladder made for the budget.
            budget: serving bytes.
            told: called after each feature that is measured.
        """
        features, dim, ladder = mixtures.features, mixtures.dim, mixtures.ladder
        nbytes = ladder.nbytes(features, dim)
        shared = np.array([option.shared(dim) for option in ladder.options])
        own = ladder.options[0].own
        free = range(len(shared)) if own else ()
        steps = list(ladder.start)
        least, loss = mixtures.losses(steps), mixtures.sensitivity(steps, told)
        for _ in range(_ROUNDS):
            moved = allocate(loss, nbytes, shared, budget - PADDING * own, free)
            if moved is None or moved == steps or not surely_less(lost := mixtures.losses(moved), least):
                break
            steps, least, loss = moved, lost, mixtures.sensitivity(moved, told)
        return cls(features, dim, ladder, steps, loss)

    def rules(self) -> list[Rule]:
        """Return rules: for all codewords of one's own, for each step of common ones, for full tables."""
        by_step: dict[int, list[int]] = {}
        for slot, step in enumerate(self.steps):
            # Those with codewords of their own stand together, whatever their shapes.
            by_step.setdefault(-1 if self.ladder.options[step].own else step, []).append(slot)
        return [self._rule(slots) for _, slots in sorted(by_step.items())]

    def _rule(self, slots: list[int]) -> Rule:
        option, names = self._option(slots[0]), [self.features[slot].name for slot in slots]
        if option == FULL:
            return Rule("full", features=names)
        if not option.own:
            ids = sum(self.features[slot].num_ids for slot in slots)
            assert option.codes is not None
            size = option.codes.serve_bytes(ids, self.dim)
            return Rule("rq", options={"own": False}, features=names, budget=size)
        shapes = [self._option(slot).codes.shapes[slot] for slot in slots]  # type: ignore[union-attr]
        bits, levels = map(list, zip(*shapes, strict=True))
        return Rule(
            "rq",
            options={"own_bits": bits, "own_levels": levels},
            features=names,
            budget=sum(self.nbytes(slot) for slot in slots) + PADDING,
        )

    @property
    def moved(self) -> bool:
        """Whether any feature stands elsewhere than `rq` would put it."""
        return list(self.steps) != list(self.ladder.start)

    @property
    def shared_bytes(self) -> int:
        """Bytes of the codewords of all steps in use."""
        return sum(self.ladder.options[step].shared(self.dim) for step in set(self.steps))

    def nbytes(self, slot: int) -> int:
        """Return what a feature serves, without what it shares."""
        return int(self.sizes[slot, self.steps[slot]])

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """What each feature would serve on each step [F, S]."""
        return self.ladder.nbytes(self.features, self.dim)

    def name(self, slot: int) -> str:
        """Return how people call what a feature gets."""
        return self._option(slot).name(slot)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the plan as a table with a head: feature, ids, step, bytes, why."""
        lines: list[tuple[str, ...]] = [("feature", "ids", "gets", "bytes", "why")]
        for slot, feature in enumerate(self.features):
            size = format_bytes(self.nbytes(slot))
            lines.append((feature.name, f"{feature.num_ids:,}", self.name(slot), size, self._why(slot)))
        return lines

    def _option(self, slot: int) -> Option:
        return self.ladder.options[self.steps[slot]]

    def _why(self, slot: int) -> str:
        """Say what the nearest smaller and larger step that changes anything would change, or none does."""
        own, sizes = self.nbytes(slot), self.sizes[slot].tolist()
        less = [step for step, size in enumerate(sizes) if size < own]
        more = [step for step, size in enumerate(sizes) if size > own]
        words = []
        for steps, change in ((less[::-1], "and save {}"), (more, "for {} more")):
            if steps:
                felt = next((step for step in steps if not _is_nothing(self.loss[slot, step])), steps[-1])
                name, size = self.ladder.options[felt].name(slot), format_bytes(abs(sizes[felt] - own))
                words.append(f"{name} would {_change(self.loss[slot, felt])} {change.format(size)}")
        return "; ".join(words)


def _is_nothing(loss: float) -> bool:
    return abs(loss) < 5e-6


def _change(loss: float) -> str:
    """Write a change of logloss."""
    if _is_nothing(loss):
        return "change nothing"
    return f"lose {loss:.5f}" if loss > 0 else f"gain {-loss:.5f}"
