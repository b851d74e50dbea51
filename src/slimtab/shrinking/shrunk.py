"""Tables that were shrunk: frozen, by group, each found by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from slimtab.errors import SlimtabError, nearest
from slimtab.schema import Feature
from slimtab.tables.base import FrozenTable


@dataclass(frozen=True)
class Group:
    """Tables of one width that share a code.

    Attributes:
        features: names of the tables and their rows, in slot order.
        dim: width.
        method: what the frozen table is rebuilt as; see :func:`slimtab.tables.fitted.empty_table`.
        config: its settings, as plain values.
        table: the frozen table.
        shares: of its bytes that each table takes, up to one factor; empty where that is not known.
    """

    features: tuple[Feature, ...]
    dim: int
    method: str
    config: dict[str, Any]
    table: FrozenTable
    shares: Sequence[float] = ()

    @property
    def full_bytes(self) -> int:
        """Bytes of the tables in float32."""
        return 4 * self.dim * sum(feature.num_ids for feature in self.features)


@dataclass
class Shrunk:
    """What :func:`slimtab.shrink` made.

    Attributes:
        method: by which.
        groups: the tables, by width.
        figures: by table, how near its vectors are to what they were; see
            :func:`slimtab.shrinking.report.figures_of`.
        replaced: modules that stand in a model, where one was given.
    """

    method: str
    groups: Sequence[Group]
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)

    @property
    def full_bytes(self) -> int:
        """Bytes of the tables in float32."""
        return sum(group.full_bytes for group in self.groups)

    @property
    def serve_bytes(self) -> int:
        """Bytes of everything a lookup needs."""
        return sum(group.table.serve_bytes() for group in self.groups)

    @property
    def names(self) -> list[str]:
        """Names of the tables."""
        return [feature.name for group in self.groups for feature in group.features]

    def find(self, name: str) -> tuple[Group, int]:
        """Return the group a table is in, and its slot there.

        Raises:
            SlimtabError: when there is no table of that name, naming the nearest.
        """
        for group in self.groups:
            for slot, feature in enumerate(group.features):
                if feature.name == name:
                    return group, slot
        raise SlimtabError(f"there is no table '{name}' among what was shrunk{nearest(name, self.names)}")

    @torch.no_grad()
    def vectors(self, name: str, ids: Tensor | None = None) -> Tensor:
        """Return vectors [N, dim] float32 of a table for ``ids`` [N] int64, or all of them in order."""
        group, slot = self.find(name)
        if ids is None:
            ids = torch.arange(group.features[slot].num_ids)
        return group.table(ids, torch.full_like(ids, slot))  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what serving needs of all tables, by group number and name."""
        return dict(nn.ModuleList(group.table for group in self.groups).state_dict())
