"""DLRM: dot products between embeddings and an embedding of the numeric columns.

Naumov et al., "Deep learning recommendation model for personalization and recommendation systems", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimtab.collection import TableCollection
from slimtab.models.base import CTRModel, ModelConfig, mlp


@dataclass(frozen=True)
class DLRMConfig(ModelConfig):
    """Settings of :class:`DLRM`.

    Attributes:
        bottom: widths of the hidden layers over the numeric columns; the embedding width follows them.
        top: widths of the hidden layers over the dot products.
        dropout: share of hidden units dropped in training.
    """

    bottom: tuple[int, ...] = (512, 256, 64)
    top: tuple[int, ...] = (512, 256)
    dropout: float = 0.0


class DLRM(CTRModel, name="dlrm"):
    """Numeric columns become one more vector; all pairs of vectors meet in a dot product."""

    Config = DLRMConfig
    pairs: Tensor

    def __init__(self, tables: TableCollection, num_dense: int, config: DLRMConfig) -> None:
        """See :class:`~slimtab.models.base.CTRModel`."""
        super().__init__(tables, num_dense, config)
        self.bottom = mlp((num_dense, *config.bottom, tables.dim), config.dropout) if num_dense else None
        vectors = len(tables.features) + (self.bottom is not None)
        self.register_buffer("pairs", torch.triu_indices(vectors, vectors, offset=1), persistent=False)
        # Without numeric columns the embeddings themselves stand beside their products.
        beside = tables.dim if self.bottom is not None else len(tables.features) * tables.dim
        widths = (beside + self.pairs.shape[1], *config.top)
        self.top = mlp(widths, config.dropout)
        self.output = nn.Linear(widths[-1], 1)

    def interact(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Return logits [B]."""
        beside = vectors.flatten(1)
        if self.bottom is not None:
            beside = self.bottom(dense)
            vectors = torch.cat([beside[:, None], vectors], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        logit: Tensor = self.output(self.top(torch.cat([beside, products], dim=1)))
        return logit.squeeze(1)
