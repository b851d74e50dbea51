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
    losses: Sequence[dict[Shape, float]], sizes: Sequence[int], dim: int, nbytes: int
) -> tuple[list[Shape], float] | None:
    """Return the shapes of features that lose least, and that loss; None where none fits.

    Args:
        losses: what each feature loses in each shape that may be tried.
        sizes: ids of each feature.
        dim: width of vectors.
        nbytes: that all may serve.
    """
    if not all(losses):
        return None
    room, longest = nbytes - PADDING, max(map(len, losses))
    loss = np.full((len(sizes), longest), np.inf)
    taken = np.full((len(sizes), longest), room + 1)
    for slot, (own, ids) in enumerate(zip(losses, sizes, strict=True)):
        loss[slot, : len(own)] = list(own.values())
        taken[slot, : len(own)] = [shape.nbytes(ids, dim) for shape in own]
    found = least_loss(loss, taken, room)
    if found is None:
        return None
    return [list(own)[step] for own, step in zip(losses, found[1], strict=True)], found[0]


def shape_losses(ids: int, nbytes: int, vectors: Tensor, weights: Tensor) -> dict[Shape, float]:
    """Return the weighted squared error of each shape worth trying within ``nbytes``; none where none fits.

    Args:
        ids: of the feature.
        nbytes: that it may serve.
        vectors: of the feature [N, dim], or of some of its ids.
        weights: what an error in each weighs [N].
    """
    ladder = _ladder(ids, vectors.shape[1], nbytes - PADDING)
    most = {bits: max(s.levels for s in ladder if s.bits == bits) for bits in {s.bits for s in ladder}}
    found = {}
    for bits, levels in most.items():
        left = vectors
        for level, words in enumerate(torch.split(fit_levels(vectors, weights, (bits,) * levels), 1 << bits)):
            left = left - words[nearest(left, words)]
            found[Shape(bits, level + 1)] = float(weights @ left.square().sum(dim=1))
    return {shape: found[shape] for shape in ladder}


def _ladder(ids: int, dim: int, nbytes: int) -> list[Shape]:
    """Return the shapes worth trying for a feature: none larger than a level with a codeword for each id."""
    exact = max(1, code_bits(ids))
    shapes = [
        Shape(bits, levels) for bits in _BITS if bits < exact for levels in range(1, MAX_BITS // bits + 1)
    ]
    if exact <= max(_BITS):
        says_all = Shape(exact, 1)
        shapes = [shape for shape in shapes if shape.nbytes(ids, dim) < says_all.nbytes(ids, dim)]
        shapes.append(says_all)
    return [shape for shape in shapes if shape.nbytes(ids, dim) <= nbytes]
