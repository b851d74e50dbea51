"""What a feature may become: a full table, or residual codes of so many bits.

Codes are the ladder because they are fitted to trained vectors: what they cost can be measured in one trained
model, feature by feature, and training through them only makes it less.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimtab.config import Rule
from slimtab.tables.packing import MAX_BITS
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


# Smallest first. A level of eight bits says more than two of four, so levels are filled one after another.
LADDER = (
    Option((2,)),
    Option((4,)),
    *(Option((8,) * levels) for levels in range(1, 1 + MAX_BITS // 8)),
    Option(),
)
