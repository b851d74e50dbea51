"""A frozen model as a program over flat tensors: what the exported formats hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimtab.batch import Batch, Ragged
from slimtab.models.base import CTRModel

Inputs = tuple[Tensor, ...]


class Program(nn.Module):
    """Dense columns and ids in, logits out, at any batch size from 1 on.

    An id outside its feature's range reads row 0, out of vocabulary. Where a model has multi-hot features
    their ids come as two more tensors, all features in one.

    Args:
        model: a frozen model in eval mode, whose tables do not check ids but read row 0.
    """

    def __init__(self, model: CTRModel) -> None:
        super().__init__()
        self.model = model
        features = model.tables.features
        self.one_hot = tuple(feature.name for feature in features if not feature.multi_hot)
        self.multi_hot = tuple(feature.name for feature in features if feature.multi_hot)

    def forward(
        self, dense: Tensor, ids: Tensor, values: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Return logits [B] float32.

        Args:
            dense: transformed numeric columns [B, I] float32.
            ids: of the one-hot features [B, F] int64.
            values: of the multi-hot features [N] int64, one feature after another, each in row order; one
                at least.
            lengths: ids per feature and row [M, B] int64; they add up to N.
        """
        ragged = None if values is None or lengths is None else Ragged(self.multi_hot, values, lengths)
        no_label = dense.new_empty(dense.shape[0])
        logits: Tensor = self.model(Batch(dense, self.one_hot, ids, no_label, ragged))
        return logits

    def names(self) -> tuple[str, ...]:
        """Return the names of the inputs it takes, in order."""
        return ("dense", "ids", "values", "lengths") if self.multi_hot else ("dense", "ids")

    def example(self) -> tuple[Inputs, tuple[dict[int, torch.export.Dim], ...]]:
        """Return inputs to trace it with, and which of their sizes are free."""
        rows, found = 3, 5  # sizes 0 and 1 would be cases of their own
        batch, total = torch.export.Dim("batch", min=1), torch.export.Dim("values", min=1)
        ids = torch.zeros(rows, len(self.one_hot), dtype=torch.int64)
        inputs, sizes = [torch.zeros(rows, self.model.num_dense), ids], [{0: batch}, {0: batch}]
        if self.multi_hot:
            lengths = torch.zeros(len(self.multi_hot), rows, dtype=torch.int64)
            lengths[0, 0] = found
            inputs += [torch.zeros(found, dtype=torch.int64), lengths]
            sizes += [{0: total}, {1: batch}]
        return tuple(inputs), tuple(sizes)

    def trace(self) -> torch.export.ExportedProgram:
        """Return the program as torch.export records it."""
        inputs, sizes = self.example()
        with torch.no_grad():
            return torch.export.export(self, inputs, dynamic_shapes=sizes)
