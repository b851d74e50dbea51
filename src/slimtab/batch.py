"""A batch of encoded rows: what the loader yields and a model takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass(frozen=True)
class Ragged:
    """Ids of the multi-hot features of a batch.

    Attributes:
        keys: feature names.
        values: ids [N] int64, one feature after another, each in row order.
        lengths: ids per row and feature [len(keys), B] int64.
    """

    keys: tuple[str, ...]
    values: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Batch:
    """Encoded rows.

    Attributes:
        dense: transformed numeric columns [B, I] float32.
        keys: names of the one-hot features.
        ids: their ids [B, len(keys)] int64.
        label: [B] float32, 0 or 1.
        ragged: ids of the multi-hot features, or None where the dataset has none. Pooling is chosen by
            this flag, never by looking into a tensor.
        whole: rows of the step's whole batch where these are one rank's share of it; None where they are all.
    """

    dense: Tensor
    keys: tuple[str, ...]
    ids: Tensor
    label: Tensor
    ragged: Ragged | None = None
    whole: int | None = None

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.label.shape[0]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; on its way to a GPU the process does not wait for it."""

        def moved(tensor: Tensor) -> Tensor:
            if device.type != "cuda":
                return tensor.to(device)
            return tensor.pin_memory().to(device, non_blocking=True)

        ragged = self.ragged and replace(
            self.ragged, values=moved(self.ragged.values), lengths=moved(self.ragged.lengths)
        )
        return replace(
            self, dense=moved(self.dense), ids=moved(self.ids), label=moved(self.label), ragged=ragged
        )

    def kjt(self) -> KeyedJaggedTensor:
        """Return all ids as TorchRec's KeyedJaggedTensor: one-hot features first, then multi-hot ones."""
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        values = self.ids.t().reshape(-1)
        lengths = torch.ones_like(values)
        keys = list(self.keys)
        if self.ragged is not None:
            keys += self.ragged.keys
            values = torch.cat([values, self.ragged.values])
            lengths = torch.cat([lengths, self.ragged.lengths.reshape(-1)])
        return KeyedJaggedTensor(keys=keys, values=values, lengths=lengths, stride=self.size)
