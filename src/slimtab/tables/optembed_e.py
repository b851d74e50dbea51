"""OptEmbed-E, of rows alone: which of them are worth keeping, at full width.

Lyu, Tang, Zhu & Liu, "OptEmbed: learning optimal embedding table for click-through rate prediction",
CIKM 2022, whose ablations these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from slimtab.tables.optembed import OptEmbed, OptEmbedConfig


@dataclass(frozen=True)
class OptEmbedEConfig(OptEmbedConfig):
    """Settings of :class:`OptEmbedE`: those of OptEmbed."""

    columns_are_cut: ClassVar[bool] = False

    @classmethod
    def _name(cls) -> str:
        return "optembed-e"


class OptEmbedE(OptEmbed, method="optembed-e"):
    """OptEmbed that cuts rows only."""

    Config = OptEmbedEConfig
