"""Residual coding: at each level the codeword nearest to what the levels before left of a vector.

Chen, Guan & Wang, "Approximate nearest neighbor search by residual vector quantization", Sensors 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from slimtab.tables.parts.kmeans import nearest, weighted_kmeans

_CHUNK = 1 << 18  # vectors coded at a time


def level_starts(levels: Sequence[int]) -> list[int]:
    """Return where the codewords of each level of so many bits begin, and where the last one's end."""
    return list(accumulate((1 << bits for bits in levels), initial=0))


def fit_levels(vectors: Tensor, weights: Tensor, levels: Sequence[int], seed: int = 0) -> Tensor:
    """Return codewords [Σ 2^bits, dim], as they are served, for ``vectors`` [N, dim] of ``weights`` [N].

    The first levels of a fit are the fit of these levels alone.
    """
    left, words = vectors, []
    for level, bits in enumerate(levels):
        words.append(as_served(weighted_kmeans(left, weights, 1 << bits, seed=seed + level)))
        left = left - words[-1][nearest(left, words[-1])]
    return torch.cat(words)


def encode(vectors: Tensor, codewords: Tensor, levels: Sequence[int]) -> Tensor:
    """Return codes [N, levels] int64 of ``vectors`` [N, dim]: at each level the nearest to what is left."""
    left, codes = vectors, []
    for start, stop in pairwise(level_starts(levels)):
        words = codewords[start:stop]
        codes.append(nearest(left, words))
        left = left - words[codes[-1]]
    return torch.stack(codes, dim=1)


def encode_all(vectors: Tensor, codewords: Tensor, levels: Sequence[int]) -> Tensor:
    """Return codes [N, levels] of many ``vectors`` [N, dim]; on the meta device they are shapes alone."""
    if vectors.is_meta:
        return torch.empty(len(vectors), len(levels), dtype=torch.int64, device="meta")
    return torch.cat([encode(chunk, codewords, levels) for chunk in torch.split(vectors, _CHUNK)])


def sample(vectors: Tensor, weights: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return at most so many of ``vectors`` [N, dim]; their ``weights`` [N] then add up to about as much."""
    if len(vectors) <= most:
        return vectors, weights
    generator = torch.Generator(device=vectors.device).manual_seed(0)
    some = torch.randperm(len(vectors), generator=generator, device=vectors.device)[:most]
    return vectors[some], weights[some] * (len(vectors) / most)


def as_served(words: Tensor) -> Tensor:
    """Return codewords as floats of half precision; gradients pass without being rounded too."""
    return words + (words.half().float() - words).detach()
