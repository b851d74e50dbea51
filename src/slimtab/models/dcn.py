"""DCN-V2: explicit feature crosses beside a deep network.

Wang et al., "DCN V2: improved deep & cross network", WWW 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimtab.collection import TableCollection
from slimtab.models.base import CTRModel, ModelConfig, mlp


@dataclass(frozen=True)
class DCNConfig(ModelConfig):
    """Settings of :class:`DCN`.

    Attributes:
        cross: number of cross layers.
        rank: rank of each cross layer's matrix; None keeps it full.
        mlp: widths of the deep network's hidden layers.
        dropout: share of hidden units dropped in training.
    """

    cross: int = 3
    rank: int | None = None
    mlp: tuple[int, ...] = (256, 128)
    dropout: float = 0.0


class _Cross(nn.Module):
    """x₀ ⊙ (W x + b) + x, with W full or of low rank."""

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.map: nn.Module
        if rank is None:
            self.map = nn.Linear(width, width)
        else:
            self.map = nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        return torch.addcmul(x, first, self.map(x))


class DCN(CTRModel, name="dcn"):
    """Cross layers and a deep network side by side, joined by one linear layer."""

    Config = DCNConfig

    def __init__(self, tables: TableCollection, num_dense: int, config: DCNConfig) -> None:
        """See :class:`~slimtab.models.base.CTRModel`."""
        super().__init__(tables, num_dense, config)
        width = len(tables.features) * tables.dim + num_dense
        self.cross = nn.ModuleList(_Cross(width, config.rank) for _ in range(config.cross))
        widths = (width, *config.mlp)
        self.deep = mlp(widths, config.dropout)
        self.output = nn.Linear(width + widths[-1], 1)

    def interact(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Return logits [B]."""
        first = torch.cat([vectors.flatten(1), dense], dim=1)
        crossed = first
        for layer in self.cross:
            crossed = layer(first, crossed)
        logit: Tensor = self.output(torch.cat([crossed, self.deep(first)], dim=1))
        return logit.squeeze(1)
