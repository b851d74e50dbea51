"""Element-sparse rows: every element reads back, in the bytes that the formula says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtab.schema import Feature
from slimtab.tables.deeplight import DeepLight
from slimtab.tables.parts.pruning import PrunedConfig, cut
from slimtab.tables.parts.sparse import FrozenSparse, sparse_bytes
from slimtab.tables.rows.plain import PlainRows


def frozen(values, mask):
    """Pack one feature's rows."""
    rows, elements = int(mask.any(dim=1).sum()), int(mask.sum())
    return FrozenSparse(values, mask, rows, elements, torch.zeros(1, dtype=torch.int64))


def agree(values, mask):
    """Read every row, in any order and more than once, and count."""
    table = frozen(values, mask)
    ids = torch.randint(len(values), (3 * len(values),), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([torch.arange(len(values)), ids])
    assert torch.equal(table(ids, torch.zeros_like(ids)), (values * mask)[ids])
    rows, elements = int(mask.any(dim=1).sum()), int(mask.sum())
    assert table.serve_bytes() == sparse_bytes(*values.shape, rows, elements)


@settings(deadline=None, max_examples=150)
@given(
    num_rows=st.integers(1, 200),
    dim=st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 100, 128, 129])),
    share=st.floats(0, 1),
    empty=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_reads_back_what_the_mask_keeps(num_rows, dim, share, empty, seed):
    """Any width, blocks with bits left over, rows of several words; rows full, empty and in between."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(num_rows, dim, generator=generator) < share
    mask[torch.rand(num_rows, generator=generator) < empty] = False
    agree(torch.randn(num_rows, dim, generator=generator), mask)


@pytest.mark.parametrize("dim", [1, 8, 12, 16, 32, 33, 64, 128])
@pytest.mark.parametrize("value", [False, True])
def test_all_and_nothing(dim, value):
    """A full block counts 64 ones, an empty table has no values: the edges of both."""
    agree(torch.randn(130, dim), torch.full((130, dim), value))


def test_a_kept_zero_is_a_value():
    """Where training left an element at zero, the mask still owns it: counts come from the mask alone."""
    values = torch.randn(20, 8)
    values[:, ::2] = 0
    agree(values, torch.ones(20, 8, dtype=torch.bool))


def test_features_follow_one_another():
    """Row 3 of the second feature is not row 3 of the first."""
    values, mask = torch.randn(30, 4), torch.rand(30, 4) < 0.5
    rows, elements = int(mask.any(dim=1).sum()), int(mask.sum())
    table = FrozenSparse(values, mask, rows, elements, torch.tensor([0, 10]))
    ids, slot = torch.tensor([3, 3, 19, 0]), torch.tensor([0, 1, 1, 1])
    assert torch.equal(table(ids, slot), (values * mask)[[3, 13, 29, 10]])


@pytest.mark.parametrize(("dim", "each"), [(4, 0.75), (8, 1.5), (16, 3), (32, 6), (64, 12), (128, 20)])
def test_what_a_row_costs(dim, each):
    """The figures of the module's table; a row that holds nothing takes 1.5 bits."""
    row = sparse_bytes(64_000, dim, 16_000, 0) - sparse_bytes(64_000, dim, 0, 0)
    assert row == 16_000 * each
    assert sparse_bytes(64_000, dim, 0, 0) - sparse_bytes(0, dim, 0, 0) == 64_000 * 1.5 / 8
    assert sparse_bytes(10, dim, 5, 7) - sparse_bytes(10, dim, 5, 6) == 4


def slow_cut(scores, nbytes):
    """One element after another, best first and then in order, until one does not fit."""
    order = np.argsort(-scores.ravel(), kind="stable")
    mask = np.zeros(scores.shape, dtype=bool)
    for place in order:
        mask.ravel()[place] = True
        if sparse_bytes(*scores.shape, int(mask.any(axis=1).sum()), int(mask.sum())) > nbytes:
            mask.ravel()[place] = False
            break
    return mask


@settings(deadline=None, max_examples=150)
@given(
    num_rows=st.integers(1, 40),
    dim=st.integers(1, 20),
    share=st.floats(0, 1.3),
    levels=st.sampled_from([1, 3, 1000]),
    shift=st.sampled_from([-500, 0]),
    seed=st.integers(0, 2**31),
)
def test_cut_keeps_the_best_that_fit(num_rows, dim, share, levels, shift, seed):
    """Trap 14: exact, whatever ties there are and whatever rows an element opens; to the byte."""
    scores = np.random.default_rng(seed).integers(0, levels, (num_rows, dim)).astype(np.float32) + shift
    nbytes = max(sparse_bytes(num_rows, dim, 1, 1), int(share * 4 * num_rows * dim))
    assert np.array_equal(cut(torch.from_numpy(scores), nbytes).numpy(), slow_cut(scores, nbytes))


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 10**7), min_size=1, max_size=60), share=st.floats(0.01, 1))
def test_a_choice_without_weights_takes_whole_rows(sizes, share):
    """On the meta device there is nothing to compare; the bytes are as near to the budget all the same."""
    num_rows, dim = sum(sizes), 16
    nbytes = max(sparse_bytes(num_rows, dim, 1, 1), int(share * 4 * dim * num_rows))
    filled = PrunedConfig(nbytes=nbytes).fill(num_rows, dim)
    counted = sparse_bytes(num_rows, dim, filled.rows, filled.elements)
    assert counted <= nbytes
    assert counted > nbytes - 16 or filled.elements in (num_rows * dim, 2**31 - 2)


def test_served_bytes_are_the_budget_to_a_row():
    """What is cut from real values leaves no more than an element and a block unused."""
    features = (Feature("C1", 700), Feature("C2", 50))
    config = PrunedConfig.for_budget(features, 16, 9_000)
    table = DeepLight(config, features, 16, PlainRows, 0.1)
    table.set_stage("prune")
    table.set_stage("finetune")
    assert 9_000 - 16 <= table.serve_bytes() <= 9_000
