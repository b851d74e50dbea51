"""AutoSrh: gates say how much each dimension matters to ids of one frequency; what they leave least of goes.

Kong, Cheng, Yin, Wang, Wang, Tang & Zhang, "AutoSrh: an embedding dimensionality search framework for tabular
data prediction", WSDM 2023. Ids fall into groups by frequency, e(x) = E[x] ⊙ α[group of x], and the gates α
learn from validation rows while E learns from training rows and the network stands still. Then the smallest
|E ⊙ α| are pruned to what the byte budget holds, and a last stage trains what is left: the public code prunes
after that stage, and serves what nothing has recovered from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.schema import Feature
from slimtab.tables.base import Clock
from slimtab.tables.parts.pruning import PrunedConfig, PrunedTable
from slimtab.tables.rows.base import RowsFactory

_GROUPS = 6
_PENALTY = 1e-5  # of the sum of all gates
_RATE = 1.0  # of the gates, per epoch: one that is pushed one way all the time closes within one


@dataclass(frozen=True)
class AutoSrhConfig(PrunedConfig):
    """Settings of :class:`AutoSrh`. Elements go all at once, before the last stage: there is no ramp."""

    by_budget = (*PrunedConfig.by_budget, "ramp")


class AutoSrh(PrunedTable, method="autosrh"):
    """A full table under gates for each dimension of six groups of ids, the frequent ones first."""

    paper = "Kong et al., WSDM 2023"
    stages = ("train", "search", "retrain")
    pruning = "search"
    by_frequency = True
    Config = AutoSrhConfig

    bounds: Tensor

    def __init__(
        self,
        config: AutoSrhConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.gates = nn.Parameter(torch.ones(_GROUPS, dim), requires_grad=False)
        # Frequency falls with the id, so a group is a range of ids: here are the ends of all but the last.
        ends = [[f.num_ids * group // _GROUPS for group in range(1, _GROUPS)] for f in features]
        self.register_buffer("bounds", torch.tensor(ends))
        self._pace = 1.0
        self._opened: Tensor | None = None

    def use_counts(self, counts: Tensor) -> None:
        """Divide all ids of all features alike by their counts, equal ones together, in about even groups."""
        sizes = [feature.num_ids for feature in self.features]
        edges = torch.tensor([0, *accumulate(sizes)])
        counts = counts.clone()
        counts[edges[:-1]] = counts.max()  # id 0 stands first, however rare the unknown is
        rising = counts.sort().values
        number = len(rising)
        wanted = torch.tensor([number - number * group // _GROUPS for group in range(1, _GROUPS)])
        count = rising[(wanted - 1).clamp(min=0)]
        # Of the two ends of a run of equal counts the nearer one.
        start, stop = torch.searchsorted(rising, count), torch.searchsorted(rising, count, right=True)
        least = torch.where(wanted - start < stop - wanted, count, count + 1)
        upto = torch.stack([F.pad((counts >= size).cumsum(0), (1, 0))[edges] for size in least], dim=1)
        self.bounds.copy_(upto[1:] - upto[:-1])

    def group(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return the group [N] of ``ids`` [N] of the features ``slot`` [N]."""
        return (ids[:, None] >= F.embedding(slot, self.bounds)).sum(dim=1)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]: gated after the first stage, masked in the last."""
        if self.stage == "train":
            return super().lookup(ids, slot)
        address = ids + self.offset.index_select(0, slot)
        rows: Tensor = self.rows(address)
        rows = rows * F.embedding(self.group(ids, slot), self._gates())
        if self.mask is not None:
            return rows * F.embedding(address, self.mask)
        return rows if self.training else self.cut_off(rows, slot, self.limit)

    @torch.no_grad()
    def values(self) -> Tensor:
        """Return all rows [n, dim] under their gates."""
        slot = self._slots()
        ids = torch.arange(self.rows.num_rows, device=slot.device) - self.offset[slot]
        return self.rows.values().mul_(F.embedding(self.group(ids, slot), self._gates()))

    def scores(self, values: Tensor, slot: Tensor) -> Tensor:
        """Return magnitudes; ``values`` are gated."""
        return values.abs()

    def cut_off(self, values: Tensor, slot: Tensor, limit: Tensor) -> Tensor:
        """Return what is no smaller than ``limit``; ``values`` are gated."""
        return values * (values.abs() >= limit)

    def penalty(self) -> Tensor | None:
        """Return the price of gates that stand open."""
        if self.stage != "search":
            return None
        gates, self._opened = self._gates(), None
        return _PENALTY * gates.sum()

    def by_validation(self) -> list[tuple[nn.Parameter, float]]:
        """Gates learn from rows that the vectors they weigh were not fitted to."""
        return [(self.gates, 1.0)] if self.stage == "search" else []

    def learning_rates(self) -> tuple[float, float]:
        """Let only rows and gates move while searching; go on carefully from what was best already."""
        return {"train": (1.0, 1.0), "search": (0.0, 0.3), "retrain": (0.1, 0.1)}[self.stage]

    def on_step(self, clock: Clock) -> None:
        """Keep gates between closed and open."""
        self._pace, self._opened = _RATE / clock.steps_per_epoch, None
        with torch.no_grad():
            self.gates.clamp_(0, 1)

    def set_stage(self, stage: str) -> None:
        """Enter a stage; gates learn in the second one only."""
        super().set_stage(stage)
        self.gates.requires_grad_(stage == "search")

    def stats(self) -> dict[str, float]:
        """Return the shares of rows and elements that are kept, and how far each group's gates are open."""
        means = self.gates.detach().clamp(0, 1).mean(dim=1).tolist()
        return super().stats() | {f"gates_{group}": mean for group, mean in enumerate(means)}

    def _gates(self) -> Tensor:
        """Return gates in [0, 1]; one node of the graph for all that a step reads, until :meth:`penalty`."""
        if not (self.gates.requires_grad and torch.is_grad_enabled()):
            return self.gates.clamp(0, 1)
        if self._opened is None:
            self._opened = _Opened.apply(self.gates, self._pace)  # type: ignore[no-untyped-call]
        return self._opened


class _Opened(torch.autograd.Function):
    """Gates in [0, 1]. Their gradient is that of a mean size of 1 in each group, times the pace.

    Frequent groups have gradients a thousand times those of rare ones, and all are to be searched alike.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, pace: float) -> Tensor:
        ctx.pace = pace
        return gates.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        size = gradients[0].abs().mean(dim=1, keepdim=True) + 1e-8
        return ctx.pace * gradients[0] / size, None
