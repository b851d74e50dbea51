"""pq: product codes, weighted k-means for each part (:mod:`slimtab.tables.parts.product_codes`)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from slimtab.shrinking.vectors import Vectors
from slimtab.tables.dpq import DPQConfig
from slimtab.tables.parts.codes import pack_codes
from slimtab.tables.parts.kmeans import weighted_kmeans
from slimtab.tables.parts.product_codes import FrozenProductCodes, nearest_pieces

_SAMPLE = 1 << 17  # rows that pieces are fitted to, at most
_CHUNK = 1 << 16  # rows coded at a time


def fit_product(
    vectors: Vectors, config: DPQConfig, seed: int, told: Callable[[int], object]
) -> FrozenProductCodes:
    """Fit pieces to a sample of the features that have codes, and code them chunk by chunk.

    Args:
        vectors: what to code.
        config: parts, codes, and which features stay full.
        seed: of the sample and of k-means.
        told: called with the rows done.
    """
    parts, width = config.parts, vectors.dim // config.parts
    coded = [slot for slot, exact in enumerate(config.exact) if not exact]
    full = [slot for slot, exact in enumerate(config.exact) if exact]
    pieces, codes = torch.empty(parts, 0, width), torch.empty(0, parts, dtype=torch.uint8)
    if coded:
        some = vectors.select(coded)
        sample, weights = some.sample(_SAMPLE, seed)
        pieces = torch.stack(
            [
                weighted_kmeans(piece.contiguous(), weights, config.codes, seed=seed + part)
                for part, piece in enumerate(sample.view(-1, parts, width).unbind(dim=1))
            ]
        )
        codes = torch.empty(some.rows, parts, dtype=torch.uint8)
        for start, chunk in some.chunks(_CHUNK):
            codes[start : start + len(chunk)] = nearest_pieces(chunk, pieces)
            told(len(chunk))
    if full:
        own = vectors.select(full).all().view(-1, parts, width).transpose(0, 1)
        pieces = torch.cat([pieces, own], dim=1)
    nothing = torch.empty(0, dtype=torch.uint8)
    packed = pack_codes(codes, config.code_bits()[0]) if coded else nothing
    return FrozenProductCodes(config, vectors.features, pieces.reshape(-1, width), packed, nothing)
