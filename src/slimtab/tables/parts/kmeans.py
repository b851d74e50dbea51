"""Weighted k-means on tensors (Lloyd, 1982), with the same result on every run and any number of threads.

Scikit-learn's adds up a cluster's members in the order its threads finish, so its last bits change between
runs; a resumed training must not.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 12  # vectors compared with all centroids at a time: their distances stay in the cache


def nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Return the closest of ``centroids`` [k, d] for each of ``vectors`` [n, d]: indices [n] int64."""
    return torch.cat([_nearest_few(chunk, centroids) for chunk in torch.split(vectors, _CHUNK)])


def _nearest_few(vectors: Tensor, centroids: Tensor) -> Tensor:
    # |v − c|² without |v|², which is the same for all centroids.
    return (
        torch.addmm(0.5 * centroids.square().sum(dim=1), vectors, centroids.t(), alpha=-1).min(dim=1).indices
    )


def weighted_kmeans(
    vectors: Tensor, weights: Tensor, clusters: int, iterations: int = 15, seed: int = 0
) -> Tensor:
    """Return centroids [clusters, d] that minimise Σ weight · |vector − nearest centroid|².

    Args:
        vectors: [n, d] float32.
        weights: of each vector [n], not negative.
        clusters: number of centroids; where there are fewer vectors the rest are zero.
        iterations: passes over the vectors.
        seed: of the start: vectors drawn by weight.

    A centroid that loses all its vectors is set on one of those that cost most.
    """
    weights = weights.to(vectors.dtype).clamp(min=torch.finfo(vectors.dtype).tiny)
    centroids = vectors.new_zeros(clusters, vectors.shape[1])
    used = min(clusters, len(vectors))
    if used == 0:
        return centroids
    if bool((vectors == vectors[0]).all()):  # as before a frozen table's file is read
        centroids[0] = vectors[0]
        return centroids
    found = vectors[_draw(weights, used, seed)]
    for _ in range(iterations if used < len(vectors) else 0):
        owner = nearest(vectors, found)
        mass = weights.new_zeros(used).index_add_(0, owner, weights)
        total = torch.zeros_like(found).index_add_(0, owner, vectors * weights[:, None])
        moved = total / mass.clamp(min=torch.finfo(mass.dtype).tiny)[:, None]
        empty = (mass == 0).nonzero().squeeze(1)
        if len(empty):
            cost = weights * (vectors - found[owner]).square().sum(dim=1)
            moved[empty] = vectors[cost.topk(len(empty)).indices]
        found = moved
    centroids[:used] = found
    return centroids


def _draw(weights: Tensor, count: int, seed: int) -> Tensor:
    """Draw ``count`` places without replacement, by weight (Efraimidis & Spirakis, 2006)."""
    generator = torch.Generator(device=weights.device).manual_seed(seed)
    uniform = torch.rand(len(weights), generator=generator, device=weights.device, dtype=torch.float64)
    return (uniform.log() / weights.double()).topk(count).indices
