"""Which shapes features' codes get."""

import itertools

import pytest
import torch

from slimtab.tables.parts.code_shapes import choose_shapes, shape_losses
from slimtab.tables.parts.own_codes import Shape
from slimtab.tables.parts.packing import PADDING
from slimtab.tables.parts.residual import encode, fit_levels


def sample(ids, scale=1.0, seed=0, dim=4):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(ids, dim, generator=generator), torch.ones(ids)


def choose(samples, sizes, nbytes):
    losses = [shape_losses(ids, nbytes, *part) for ids, part in zip(sizes, samples, strict=True)]
    return choose_shapes(losses, sizes, 4, nbytes)


def error(shape, vectors, weights):
    words = fit_levels(vectors, weights, shape.bits_of_levels)
    codes = encode(vectors, words, shape.bits_of_levels)
    level = torch.arange(shape.levels) << shape.bits
    sums = words[codes + level].sum(1)
    return float(weights @ (vectors - sums).square().sum(1))


@pytest.mark.parametrize("nbytes", [300, 500, 900])
def test_no_other_choice_loses_less(nbytes):
    """Brute force over both features' shapes; the knapsack may waste a two-thousandth for each feature."""
    sizes, samples = [200, 60], [sample(200), sample(60, 3.0, 1)]
    found, loss = choose(samples, sizes, nbytes)
    assert sum(shape.nbytes(ids, 4) for shape, ids in zip(found, sizes, strict=True)) + PADDING <= nbytes
    ladder = [Shape(bits, levels) for bits in (2, 4, 6) for levels in range(1, 57 // bits + 1)]
    each = [
        {shape: error(shape, *part) for shape in ladder if shape.nbytes(ids, 4) <= nbytes}
        for part, ids in zip(samples, sizes, strict=True)
    ]
    assert loss == pytest.approx(each[0][found[0]] + each[1][found[1]], rel=1e-4)
    assert loss <= 1.0001 * min(
        each[0][one] + each[1][other]
        for one, other in itertools.product(*each)
        if one.nbytes(200, 4) + other.nbytes(60, 4) <= (nbytes - PADDING) * 0.998
    )


def test_a_small_feature_is_coded_exactly_where_that_is_cheapest():
    """Each of three ids has a codeword."""
    samples = [sample(3, 5.0), sample(500, 0.1, 1)]
    shapes, loss = choose(samples, [3, 500], 500)
    assert shapes[0] == Shape(2, 1)
    assert loss < float(samples[1][0].square().sum())


@pytest.mark.parametrize("ids", [2, 5, 100, 129, 256])
def test_no_shape_is_larger_than_a_codeword_for_each_id(ids):
    *smaller, exact = shape_losses(ids, 1 << 20, *sample(ids))
    assert exact == Shape(max(1, (ids - 1).bit_length()), 1)
    assert all(shape.nbytes(ids, 4) < exact.nbytes(ids, 4) for shape in smaller)


def test_bits_go_where_errors_weigh():
    alike = [sample(300, 1.0, 0), sample(300, 1.0, 1)]
    felt = [(alike[0][0], 100 * alike[0][1]), alike[1]]
    (one, other), _ = choose(felt, [300, 300], 1200)
    assert one.bits * one.levels > other.bits * other.levels


def test_what_cannot_fit_is_none():
    assert choose([sample(300)], [300], 60) is None
