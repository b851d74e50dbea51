"""rq: at each level, weighted k-means of what the levels before left (:mod:`slimtab.tables.rq`).

Fitting all levels to each other afterwards, as additive quantisation does, lowers the squared error by 3 to
7 % and the AUC lost by nothing that could be measured (benchmarks/results/shrink.md); so it is left out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slimtab.shrinking.vectors import Vectors
from slimtab.tables.parts.common_codes import FrozenCommonCodes
from slimtab.tables.parts.residual import encode, fit_levels
from slimtab.tables.rq import RQConfig

_SAMPLE = 1 << 17  # rows that codewords are fitted to, at most
_CHUNK = 1 << 16  # rows coded at a time


def fit_residual(
    vectors: Vectors, config: RQConfig, seed: int, told: Callable[[int], object]
) -> FrozenCommonCodes:
    """Return vectors coded with common codewords; see :func:`fit_codes`."""
    codes, codewords = fit_codes(vectors, config, seed, told)
    return FrozenCommonCodes(codes, codewords, config.levels, vectors.offset)


def fit_codes(
    vectors: Vectors, config: RQConfig, seed: int, told: Callable[[int], object]
) -> tuple[Tensor, Tensor]:
    """Fit codewords to a sample, and code all vectors chunk by chunk.

    Args:
        vectors: what to code.
        config: bits of each level.
        seed: of the sample and of k-means.
        told: called with the rows done.

    Returns:
        Codes [rows, levels] uint8, and codewords [Σ 2^bits, dim] float32, as half precision has them.
    """
    codewords = fit_levels(*vectors.sample(_SAMPLE, seed), config.levels, seed)
    codes = torch.empty(vectors.rows, len(config.levels), dtype=torch.uint8)
    for start, chunk in vectors.chunks(_CHUNK):
        codes[start : start + len(chunk)] = encode(chunk, codewords, config.levels)
        told(len(chunk))
    return codes, codewords
