"""DeepFM: a factorisation machine and a deep network over the same embeddings.

Guo et al., "DeepFM: a factorization-machine based neural network for CTR prediction", IJCAI 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimtab.collection import TableCollection
from slimtab.models.base import CTRModel, ModelConfig, mlp


@dataclass(frozen=True)
class DeepFMConfig(ModelConfig):
    """Settings of :class:`DeepFM`.

    Attributes:
        mlp: widths of the deep network's hidden layers.
        dropout: share of hidden units dropped in training.
    """

    mlp: tuple[int, ...] = (256, 128)
    dropout: float = 0.0


class DeepFM(CTRModel, name="deepfm"):
    """First-order weights, pairwise products and a deep network, added up.

    The first-order weight of an id is coordinate 0 of its vector, and the factorisation machine works on
    the others. So there is no second table: whatever shrinks the vectors shrinks the first-order weights
    with them, and they are counted with them.
    """

    Config = DeepFMConfig

    def __init__(self, tables: TableCollection, num_dense: int, config: DeepFMConfig) -> None:
        """See :class:`~slimtab.models.base.CTRModel`."""
        super().__init__(tables, num_dense, config)
        widths = (len(tables.features) * tables.dim + num_dense, *config.mlp)
        self.deep = mlp(widths, config.dropout)
        self.output = nn.Linear(widths[-1], 1)
        self.linear = nn.Linear(num_dense, 1, bias=False) if num_dense else None

    def interact(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Return logits [B]."""
        logit = vectors[:, :, 0].sum(dim=1) + pairwise_products(vectors[:, :, 1:])
        if self.linear is not None:
            logit = logit + self.linear(dense).squeeze(1)
        deep: Tensor = self.output(self.deep(torch.cat([vectors.flatten(1), dense], dim=1)))
        return logit + deep.squeeze(1)


def pairwise_products(vectors: Tensor) -> Tensor:
    """Return Σ over pairs i < j of ⟨v_i, v_j⟩, [B], for ``vectors`` [B, F, k].

    Computed as half of |Σv|² − Σ|v|², in one pass over the features (Rendle, ICDM 2010).
    """
    total = vectors.sum(dim=1)
    return 0.5 * (total.square().sum(dim=1) - vectors.square().sum(dim=(1, 2)))
