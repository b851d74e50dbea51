"""Weighted k-means against scikit-learn's, and its corner cases."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from slimtab.tables.parts.kmeans import nearest, weighted_kmeans


def cost(vectors, weights, centroids):
    return float((weights * (vectors - centroids[nearest(vectors, centroids)]).square().sum(1)).sum())


def sample(n=2000, d=6, seed=0):
    rng = np.random.default_rng(seed)
    vectors = torch.from_numpy(rng.standard_normal((n, d), dtype=np.float32))
    return vectors, torch.from_numpy(1 / np.arange(1, n + 1, dtype=np.float32))


def test_nearest_is_nearest():
    """Against every distance written out."""
    vectors, _ = sample(500)
    centroids = vectors[:40]
    assert torch.equal(nearest(vectors, centroids), torch.cdist(vectors, centroids).argmin(1))


@pytest.mark.parametrize("clusters", [4, 64])
def test_about_as_good_as_scikit_learn(clusters):
    """Same objective, a simpler start: within a tenth of its cost."""
    vectors, weights = sample()
    theirs = KMeans(clusters, n_init=3, random_state=0).fit(vectors.numpy(), sample_weight=weights.numpy())
    ours = weighted_kmeans(vectors, weights, clusters, iterations=30)
    assert cost(vectors, weights, ours) < 1.1 * cost(
        vectors, weights, torch.from_numpy(theirs.cluster_centers_)
    )


def test_weights_matter():
    """Frequent ids get the centroids."""
    vectors, weights = sample()
    by_weight = weighted_kmeans(vectors, weights, 32)
    alike = weighted_kmeans(vectors, torch.ones_like(weights), 32)
    assert cost(vectors, weights, by_weight) < 0.8 * cost(vectors, weights, alike)


def test_the_same_every_time():
    """A resumed training clusters again and must find the same."""
    vectors, weights = sample()
    assert torch.equal(weighted_kmeans(vectors, weights, 50), weighted_kmeans(vectors, weights, 50))


def test_more_centroids_than_vectors():
    """Each vector is its own centroid; nothing divides by zero."""
    vectors, weights = sample(5)
    centroids = weighted_kmeans(vectors, weights, 8)
    assert centroids.shape == (8, 6)
    assert cost(vectors, weights, centroids) == 0.0


def test_no_centroid_stays_empty():
    """Many equal vectors: the empty ones move to where cost is."""
    vectors = torch.cat([torch.zeros(1000, 2), torch.arange(20.0).view(10, 2)])
    centroids = weighted_kmeans(vectors, torch.ones(1010), 11, iterations=20)
    assert cost(vectors, torch.ones(1010), centroids) == pytest.approx(0.0, abs=1e-6)
