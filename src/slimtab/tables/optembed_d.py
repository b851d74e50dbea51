"""OptEmbed-D, of widths alone: every row stays, cut to a width per feature.

Lyu, Tang, Zhu & Liu, "OptEmbed: learning optimal embedding table for click-through rate prediction",
CIKM 2022, whose ablations these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from slimtab.tables.optembed import OptEmbed, OptEmbedConfig


@dataclass(frozen=True)
class OptEmbedDConfig(OptEmbedConfig):
    """Settings of :class:`OptEmbedD`: those of OptEmbed."""

    rows_are_cut: ClassVar[bool] = False

    @classmethod
    def _name(cls) -> str:
        return "optembed-d"


class OptEmbedD(OptEmbed, method="optembed-d"):
    """OptEmbed that cuts columns only."""

    Config = OptEmbedDConfig
