"""Who gets how many codewords: the shapes of features' codes that lose least in so many bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slimtab.tables.parts.kmeans import nearest
from slimtab.tables.parts.knapsack import least_loss
from slimtab.tables.parts.own_codes import Shape
from slimtab.tables.parts.packing import MAX_BITS, PADDING, code_bits
from slimtab.tables.parts.residual import fit_levels

_BITS = (2, 4, 6, 8)  # of a level


def choose_shapes(
    samples: Sequence[tuple[Tensor, Tensor]], sizes: Sequence[int], nbytes: int
) -> tuple[list[Shape], float] | None:
    """Return the shapes of features that lose least, and that loss; None where none fits.

    Args:
        samples: vectors [N, dim] of each feature, and what an error in each weighs [N]; the loss is the sum
            of weighted squared errors.
        sizes: ids of each feature.
        nbytes: that all may serve.
    """
    dim = samples[0][0].shape[1]
    room = nbytes - PADDING
    ladders = [_ladder(ids, dim, room) for ids in sizes]
    if not all(ladders):
        return None
    longest = max(map(len, ladders))
    loss = np.full((len(sizes), longest), np.inf)
    taken = np.full((len(sizes), longest), room + 1)
    for slot, (ladder, ids) in enumerate(zip(ladders, sizes, strict=True)):
        loss[slot, : len(ladder)] = _losses(ladder, *samples[slot])
        taken[slot, : len(ladder)] = [shape.nbytes(ids, dim) for shape in ladder]
    found = least_loss(loss, taken, room)
    if found is None:
        return None
    return [ladder[step] for ladder, step in zip(ladders, found[1], strict=True)], found[0]


def _ladder(ids: int, dim: int, nbytes: int) -> list[Shape]:
    """Return the shapes worth trying for a feature: one level says all where each id has a codeword."""
    exact = max(1, code_bits(ids))
    shapes = [
        Shape(bits, levels) for bits in _BITS if bits < exact for levels in range(1, MAX_BITS // bits + 1)
    ]
    if exact <= max(_BITS):
        shapes.append(Shape(exact, 1))
    return [shape for shape in shapes if shape.nbytes(ids, dim) <= nbytes]


def _losses(ladder: Sequence[Shape], vectors: Tensor, weights: Tensor) -> list[float]:
    """Return the weighted squared error of each shape."""
    most = {bits: max(s.levels for s in ladder if s.bits == bits) for bits in {s.bits for s in ladder}}
    found = {}
    for bits, levels in most.items():
        left = vectors
        for level, words in enumerate(torch.split(fit_levels(vectors, weights, (bits,) * levels), 1 << bits)):
            left = left - words[nearest(left, words)]
            found[Shape(bits, level + 1)] = float(weights @ left.square().sum(dim=1))
    return [found[shape] for shape in ladder]
