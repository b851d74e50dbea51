"""Codes with codewords for each feature alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtab.tables.parts.own_codes import (
    Shape,
    bytes_by_feature,
    freeze_own_codes,
    sum_own_codes,
)
from slimtab.tables.parts.packing import PADDING
from slimtab.tables.parts.starts import starts

SHAPES = [Shape(3, 2), Shape(1, 1), Shape(2, 4)]
SIZES = [50, 2, 9]


def words(shapes=SHAPES, dim=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sum(shape.codewords for shape in shapes), dim, generator=generator).half().float()


def in_numpy(vector, shape, own):
    """Greedy residual coding of one vector, written out."""
    left = vector.copy()
    for level in range(shape.levels):
        those = own[level << shape.bits : (level + 1) << shape.bits]
        left = left - those[((left - those) ** 2).sum(1).argmin()]
    return vector - left


def test_sums_equal_numpy_whatever_the_order_of_features():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 5), dtype=np.float32)
    slot = rng.choice(3, 40, p=[0.7, 0.0, 0.3])  # one feature is not in the batch
    codewords = words()
    found = sum_own_codes(SHAPES, torch.from_numpy(rows), torch.from_numpy(slot), codewords)
    parts = np.split(codewords.numpy(), starts(shape.codewords for shape in SHAPES)[1:])
    expected = [in_numpy(row, SHAPES[of], parts[of]) for row, of in zip(rows, slot, strict=True)]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_codewords_that_were_chosen():
    codewords = words().requires_grad_()
    rows = codewords.detach()[[1, 16]]  # a codeword of the first feature, and one of the second
    sum_own_codes(SHAPES[:2], rows, torch.tensor([0, 1]), codewords).sum().backward()
    assert codewords.grad[1].tolist() == [1.0] * 5
    assert codewords.grad[16].tolist() == [1.0] * 5
    assert int((codewords.grad != 0).any(1).sum()) == 3  # the first has a second level


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.integers(1, 7), st.integers(1, 40)).map(
            lambda drawn: (Shape(*drawn[:2]), drawn[2])
        ),
        min_size=1,
        max_size=6,
    )
)
def test_frozen_vectors_are_the_sums_and_the_bytes_as_counted(features):
    """Codes of any shapes side by side: none reads into another's."""
    shapes, sizes = zip(*features, strict=True)
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(ids, 3, generator=generator) for ids in sizes]
    codewords = words(shapes, 3)
    frozen = freeze_own_codes(shapes, values, codewords)
    ids = torch.cat([torch.arange(size) for size in sizes])
    slot = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    expected = sum_own_codes(shapes, torch.cat(values), slot, codewords)
    torch.testing.assert_close(frozen(ids, slot), expected)
    counted = sum(
        -(-size * shape.bits * shape.levels // 8) + 2 * 3 * (shape.levels << shape.bits)
        for shape, size in features
    )
    assert frozen.serve_bytes() == counted + PADDING == sum(bytes_by_feature(shapes, sizes, 3))


def test_how_codewords_are_used():
    """Two ids on one of two codewords, in the one feature; all four on theirs, in the other."""
    codewords = torch.tensor([[0.0], [9.0], [0.0], [1.0], [2.0], [3.0]])
    values = [torch.zeros(2, 1), torch.arange(4.0)[:, None]]
    stats = freeze_own_codes([Shape(1, 1), Shape(2, 1)], values, codewords).stats()
    assert stats == {"codes_used": pytest.approx(5 / 6), "code_entropy": pytest.approx(0.5)}


def test_the_table_is_exported_with_a_dynamic_batch():
    values = [torch.randn(size, 5) for size in SIZES]
    frozen = freeze_own_codes(SHAPES, values, words())
    slot = torch.tensor([0, 1, 2, 0])
    ids = torch.tensor([49, 1, 8, 0])
    batch = torch.export.Dim("batch", min=2, max=1000)
    program = torch.export.export(frozen, (ids, slot), dynamic_shapes=({0: batch}, {0: batch}))
    more = (torch.tensor([3, 1, 2, 30, 0, 7]), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert torch.equal(program.module()(*more), frozen(*more))
