"""What a feature may become: a full table, or residual codes of so many bits.

Codes are the ladder because they are fitted to trained vectors: what they cost can be measured in one trained
model, feature by feature, and training through them only makes it less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimtab.config import Rule
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.sizes import format_bytes
from slimtab.tables.parts.packing import MAX_BITS
from slimtab.tables.rq import RQConfig


@dataclass(frozen=True)
class Option:
    """A step of the ladder.

    Attributes:
        levels: bits of each level of the code; none for the full table.
    """

    levels: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """How people call it: ``full``, ``24 bits``."""
        return f"{sum(self.levels)} bits" if self.levels else "full"

    def nbytes(self, ids: int, dim: int) -> int:
        """Return what features with ``ids`` ids in all serve, without :meth:`shared`."""
        if not self.levels:
            return 4 * dim * ids
        return RQConfig(self.levels).serve_bytes(ids, dim) - self.shared(dim)

    def shared(self, dim: int) -> int:
        """Return what all features of this step serve together: the codewords."""
        return 2 * dim * RQConfig(self.levels).starts[-1] if self.levels else 0

    def rule(self, features: list[str], ids: int, dim: int) -> Rule:
        """Return the rule that gives this step to ``features``, which have ``ids`` ids in all."""
        if not self.levels:
            return Rule("full", features=features)
        return Rule("rq", features=features, budget=self.nbytes(ids, dim) + self.shared(dim))


# Smallest first; what a budget allows all features alike is added. A level of eight bits says more than two
# of four, so levels are filled one after another.
LADDER = (
    Option((2,)),
    Option((4,)),
    *(Option((8,) * levels) for levels in range(1, 1 + MAX_BITS // 8)),
    Option(),
)


def ladder_for(features: Sequence[Feature], dim: int, budget: int) -> tuple[Option, ...]:
    """Return the ladder with a step of the codes that use up the budget when all features stand on it.

    Raises:
        SlimtabError: when even codes of one bit are larger than ``budget`` bytes.
    """
    least = RQConfig.smallest_bytes(features, dim)
    if least > budget:
        raise SlimtabError(
            f"auto cannot plan for {format_bytes(budget)}: one bit for each id takes {format_bytes(least)}; "
            "raise the budget, or choose unified or robe, whose ids share"
        )
    alike = RQConfig.for_budget(features, dim, budget)
    assert isinstance(alike, RQConfig)
    every = {sum(option.levels): option for option in (*LADDER[:-1], Option(alike.levels))}
    return (*(every[bits] for bits in sorted(every)), LADDER[-1])
