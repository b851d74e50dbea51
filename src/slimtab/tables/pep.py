"""PEP: learned thresholds cut elements off softly; what is left of them is trained anew from the start.

Liu et al., "Learnable embedding sizes for recommender systems", ICLR 2021: ê = sign(E) · max(|E| − σ(s), 0).
The published start s = −150 has a threshold, and a gradient, of exactly zero in float32; there s moves only
because Adam's coupled decay pulls at it. Here thresholds start at a hundredth of the elements, learn from the
loss how features and dimensions differ, and rise together, by a ramp, to what the byte budget demands. Rows
are gathered first and then cut, not the whole table at each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.schema import Feature
from slimtab.tables.parts.pruning import PrunedConfig, PrunedTable
from slimtab.tables.rows.base import RowsFactory

_GAIN = 20.0  # thresholds learn in the log domain, this many times as fast as the network's weights
_QUANTILE = 0.0125  # one element in a hundred of a normal sample is smaller than this, in deviations


class PEP(PrunedTable, method="pep"):
    """A full table under soft thresholds, one for each dimension of each feature."""

    paper = "Liu et al., ICLR 2021"
    stages = ("search", "retrain")
    rewinds = ("retrain",)
    pruning = "search"

    level: Tensor

    def __init__(
        self,
        config: PrunedConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        start = _QUANTILE * max(init_std, 1e-6)
        self.register_buffer("level", torch.tensor(math.log(start / (1 - start))))
        self.relative = nn.Parameter(torch.zeros(len(features), dim))  # s = level + gain · relative

    def scores(self, values: Tensor, slot: Tensor) -> Tensor:
        """Return the level of the thresholds at which each element goes."""
        return torch.logit(values.abs().clamp(1e-30, 0.999)) - _GAIN * F.embedding(slot, self.relative)

    def cut_off(self, values: Tensor, slot: Tensor, limit: Tensor) -> Tensor:
        """Return ``values`` less the thresholds of level ``limit``."""
        return soft_threshold(values, F.embedding(slot, limit + _GAIN * self.relative))

    def prune(self, limit: Tensor) -> None:
        """Raise all thresholds; they never fall, but for what each learns."""
        self.level.copy_(torch.maximum(self.level, limit))

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]: cut softly in the first stage, masked in the second."""
        rows = super().lookup(ids, slot)
        if self.stage == self.pruning and self.training:
            return self.cut_off(rows, slot, self.level)
        return rows

    def set_stage(self, stage: str) -> None:
        """Enter a stage; thresholds have had their say when the second begins."""
        super().set_stage(stage)
        self.relative.requires_grad_(stage == self.pruning)


def soft_threshold(values: Tensor, logits: Tensor) -> Tensor:
    """Return sign(v) · max(|v| − σ(s), 0) for ``values`` v and ``logits`` s of one shape."""
    return values.sign() * F.relu(values.abs() - torch.sigmoid(logits))
