"""Many clusters of many vectors in one pass each: k-means in two levels.

Comparing n vectors with k centroids costs n · k; splitting them into √k groups first, and each group by
itself, costs 2 · n · √k. A vector's centroid is the nearest of its group, which is seldom not the nearest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slimtab.tables.parts.kmeans import nearest, weighted_kmeans

_ONE_LEVEL = 256  # clusters that are found without splitting
_SAMPLES = 256  # vectors per centroid are enough to place it
_ITERATIONS = 5


def cluster(vectors: Tensor, weights: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Return centroids [clusters, d] and the centroid of each vector [n] int64.

    Args:
        vectors: [n, d] float32.
        weights: of each vector [n], not negative.
        clusters: number of centroids; those left over are zero.
    """
    if clusters <= _ONE_LEVEL:
        return _one_level(vectors, weights, clusters)
    groups = math.isqrt(clusters)
    owner = _one_level(vectors, weights, groups)[1]
    members = torch.bincount(owner, minlength=groups)
    order = torch.argsort(owner, stable=True)
    edges = _shares(members, clusters).cumsum(0)
    centroids = vectors.new_zeros(clusters, vectors.shape[1])
    start = 0
    for group, stop in zip(torch.split(order, members.tolist()), edges.tolist(), strict=True):
        if len(group):
            centroids[start:stop], inside = _one_level(vectors[group], weights[group], stop - start)
            owner[group] = start + inside
        start = stop
    return centroids, owner


def _one_level(vectors: Tensor, weights: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Place centroids on a sample, and find the nearest of every vector."""
    sample = torch.randperm(len(vectors), device=vectors.device)[: _SAMPLES * clusters]
    centroids = weighted_kmeans(vectors[sample], weights[sample], clusters, _ITERATIONS)
    return centroids, nearest(vectors, centroids[: len(vectors)])


def _shares(members: Tensor, clusters: int) -> Tensor:
    """Divide ``clusters`` among groups by their numbers of members, at least one for each that has any."""
    filled = (members > 0).long()
    left = clusters - int(filled.sum())
    shared = torch.div(members * left, members.sum(), rounding_mode="floor")
    return filled + shared
