"""Hash embeddings: components and their weights found by hashing, added up as they are read."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel
from slimtab.kernels.hashing import mix_block, place_in
from slimtab.kernels.intrinsics import prefetch_block
from slimtab.kernels.rows import add_scaled, copy_scaled


@functools.cache
def _loop(probes: int, dim: int) -> Any:
    @kernel
    def hash_embedding(begin, end, components, importances, salt, ids, slot, out):
        words = np.zeros((probes + 1, BLOCK), dtype=np.uint64)
        starts = np.empty((BLOCK, probes + 1), dtype=np.int64)
        component_rows, importance_rows = len(components) // dim, len(importances) // probes
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            mix_block(ids, slot, salt, first, count, probes + 1, words)
            for i in range(count):
                for probe in range(probes):
                    starts[i, probe] = dim * place_in(words[probe, i], component_rows)
                    prefetch_block(components, starts[i, probe])
                starts[i, probes] = probes * place_in(words[probes, i], importance_rows)
                prefetch_block(importances, starts[i, probes])
            for i in range(count):
                place = (first + i) * dim
                weight = importances[np.uint64(starts[i, probes])]
                copy_scaled(components, starts[i, 0], weight, np.float32(0), dim, out, place)
                for probe in range(1, probes):
                    weight = importances[np.uint64(starts[i, probes] + probe)]
                    add_scaled(components, starts[i, probe], weight, dim, out, place)

    return hash_embedding


def read_hash_embedding(
    components: Tensor, importances: Tensor, salt: Tensor, ids: Tensor, slot: Tensor
) -> Tensor:
    """Return vectors [N, dim].

    Args:
        components: [C, dim] float32.
        importances: [R, probes] float32.
        salt: [F, probes + 1] int64, that of the weights the last.
        ids: [N] int64.
        slot: [N] int64.
    """
    probes, dim = importances.shape[1], components.shape[1]
    out = components.new_empty(len(ids), dim)
    tables = components.view(-1), importances.view(-1)
    in_parts(_loop(probes, dim), len(ids), *tables, salt, ids, slot, out.view(-1))
    return out
