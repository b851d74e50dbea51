"""Rows that stand on every rank: small ones, whose gradients cost less to send round than rows would."""

from __future__ import annotations

import torch

from slimtab.tables.rows.fused import FusedRows, Touched
from slimtab.training.engine.group import gather


class ReplicatedRows(FusedRows):
    """:class:`FusedRows` on every rank: a step gathers what all ranks touched, and each applies all of it.

    Ranks that begin alike stay alike to the last bit, with any optimizer. All ranks step at the same time.
    """

    def _collected(self) -> Touched | None:
        """Return the rows that any rank's gradients have reached, with the sum of those."""
        own = super()._collected()
        address = self.packed.new_empty(0, dtype=torch.int64)
        gradient = self.packed.new_empty(0, self.width)
        if own is not None and own.values.grad is not None:
            address, gradient = own.address, own.values.grad
        addresses, gradients = torch.cat(gather(address)), torch.cat(gather(gradient))
        if not len(addresses):
            return None
        unique, inverse = torch.unique(addresses, return_inverse=True)
        packed = self.packed.index_select(0, unique)
        values = packed[:, : self.width] * self.scale.float()
        values.grad = torch.zeros_like(values).index_add_(0, inverse, gradients)
        return Touched(unique, packed, values)
