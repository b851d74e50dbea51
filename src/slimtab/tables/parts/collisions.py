"""Collisions: ids of a feature that a frozen table cannot tell apart."""

from __future__ import annotations

import torch
from torch import Tensor

from slimtab.tables.base import FrozenTable
from slimtab.tables.hashing import mix64

_CHUNK = 1 << 16  # ids looked up at a time


@torch.no_grad()
def collision_rate(table: FrozenTable, slot: int, num_ids: int) -> float:
    """Return the share of a feature's ids whose vector is, bit by bit, also that of another of its ids.

    Hashed ids that share all their rows, ids with the same codes and ids whose rows were pruned away alike
    count: whatever the model learns of one, it learns of the other. It looks up each id once, which is less
    than a pass over the training rows, and holds 8 bytes for each.

    Args:
        table: the frozen table.
        slot: the feature.
        num_ids: its number of ids, all of them numbered.
    """
    device = next(table.buffers()).device
    keys = [
        _keys(table(ids, torch.full_like(ids, slot)))
        for ids in torch.split(torch.arange(num_ids, device=device), _CHUNK)
    ]
    _, counts = torch.unique(torch.cat(keys), return_counts=True)
    return int(counts[counts > 1].sum()) / num_ids


def _keys(vectors: Tensor) -> Tensor:
    """Return an int64 for each of ``vectors`` [N, w] float32; two that differ hardly ever share one."""
    bits = (vectors + 0.0).contiguous().view(torch.int32).long()  # −0 becomes 0
    factors = mix64(torch.arange(1, vectors.shape[1] + 1, device=vectors.device)) | 1
    return (bits * factors).sum(dim=1)
