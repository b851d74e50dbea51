"""Dedup: which blocks are merged, into what, and how they are found again."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.dedup import Dedup, DedupConfig
from slimtab.tables.parts.merging import merge_blocks
from slimtab.tables.parts.packing import packed_bytes
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.training import every_id

SIZES = [7, 120, 1, 45]


def make(blocks=40, block=4, sizes=SIZES, make_rows=PlainRows):
    torch.manual_seed(0)
    features = [Feature(f"C{number}", size) for number, size in enumerate(sizes)]
    return Dedup(DedupConfig(blocks, block), features, 6, make_rows, 0.1)


def cost(one, other, weight_one, weight_other):
    """By how much the weighted squared error grows when two blocks become their mean."""
    total = 0.0
    for a, b, u, v in zip(one, other, weight_one, weight_other, strict=True):
        if u + v:
            mean = (u * a + v * b) / (u + v)
            total += u * ((a - mean) ** 2).sum() + v * ((b - mean) ** 2).sum()
    return total


def test_the_cheapest_merge_comes_first():
    """Against all pairs, one by one: the cost of a merge is the error it adds."""
    rng = np.random.default_rng(0)
    blocks = rng.normal(size=(5, 2, 3))
    weights = rng.integers(0, 9, (5, 2)).astype(float)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    one, other = min(pairs, key=lambda pair: cost(*(blocks[k] for k in pair), *(weights[k] for k in pair)))
    owner, _ = merge_blocks(torch.tensor(blocks).float(), torch.tensor(weights).float(), 4)
    assert owner[one] == owner[other]
    assert len(owner.unique()) == 4


@pytest.mark.parametrize("count", [1, 3, 50, 299, 300, 400])
def test_just_as_many_are_left_as_asked_for(count):
    """A tolerance cannot promise a budget; this does."""
    torch.manual_seed(0)
    owner, kept = merge_blocks(torch.randn(300, 4, 3), torch.rand(300, 4), count)
    assert len(kept) == min(300, count)
    assert sorted(owner.unique().tolist()) == list(range(min(300, count)))


def test_what_is_kept_is_the_weighted_mean_of_all_it_stands_for():
    """Also of what was merged into something that was merged again (a duplicate of a duplicate)."""
    torch.manual_seed(0)
    blocks, weights = torch.randn(200, 3, 2), torch.randint(0, 5, (200, 3)).float()
    owner, kept = merge_blocks(blocks, weights, 9)
    for number in range(9):
        members = (owner == number).nonzero().squeeze(1)
        assert len(members) > 3
        mass = weights[members].sum(dim=0)
        mean = (blocks[members] * weights[members][..., None]).sum(dim=0) / mass[:, None]
        torch.testing.assert_close(kept[number][mass > 0], mean[mass > 0], rtol=1e-4, atol=1e-5)


def test_planted_duplicates_are_found():
    """Twenty noisy copies of each of 50 blocks become 50 blocks again."""
    torch.manual_seed(0)
    group = torch.randperm(1000) % 50
    blocks = torch.randn(50, 2, 8)[group] + 0.01 * torch.randn(1000, 2, 8)
    owner, kept = merge_blocks(blocks, torch.ones(1000, 2), 50)
    assert float((kept[owner] - blocks).abs().max()) < 0.1
    assert len({(int(a), int(b)) for a, b in zip(owner, group, strict=True)}) == 50


def test_frequent_blocks_stay_as_they_are():
    """Rows that are read often cost most to change; also how tiny features stay exact."""
    torch.manual_seed(0)
    blocks, weights = torch.randn(500, 2, 4), torch.ones(500, 2)
    weights[:50] = 1e6
    owner, kept = merge_blocks(blocks, weights, 100)
    assert len(owner[:50].unique()) == 50
    torch.testing.assert_close(kept[owner[:50]], blocks[:50], rtol=0, atol=1e-2)


def test_equal_blocks_cost_nothing_and_little_time():
    """Untrained tables decay to zeros: ties must not leave one merge a round."""
    blocks = torch.zeros(20_000, 2, 4)
    blocks[:10] = torch.arange(1.0, 11.0)[:, None, None]
    owner, kept = merge_blocks(blocks, torch.ones(20_000, 2), 11)
    assert torch.equal(kept[owner], blocks)


def test_merging_is_the_same_each_time():
    """A resumed run must find the blocks it had, whatever the state of the global generator."""
    blocks, weights = torch.randn(300, 2, 4), torch.rand(300, 2)
    first = merge_blocks(blocks, weights, 30)
    torch.rand(5)
    second = merge_blocks(blocks, weights, 30)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_lookup_equals_a_slow_reference():
    """Block of the id, the one that stands for it, and the row inside; features start a block each."""
    table = make()
    table.set_stage("share")
    ids, slot = every_id(table)
    rows, start = table.rows.weight.detach(), 0
    expected = []
    for size in SIZES:
        for number in range(size):
            stored = int(table.index[start + number // 4])
            expected.append(rows[4 * stored + number % 4])
        start += -(-size // 4)
    with torch.no_grad():
        assert torch.equal(table(ids, slot), torch.stack(expected))
        assert torch.equal(table.freeze()(ids, slot), torch.stack(expected))


def test_where_all_blocks_fit_nothing_changes():
    """Going from one stage to the next is only as rough as the budget makes it, last blocks included."""
    table = make(blocks=2 + 30 + 1 + 12)
    ids, slot = every_id(table)
    before = table(ids, slot)
    table.set_stage("share")
    torch.testing.assert_close(table(ids, slot), before, rtol=0, atol=0)


def test_padding_has_no_say():
    """The last block of a feature may have one row; what it shares is that row's, not that of zeros."""
    table = make(blocks=1, sizes=[4, 5])
    with torch.no_grad():
        table.rows.weight.copy_(torch.tensor([1.0, 2, 3, 4, 1, 2, 3, 4, 1])[:, None].expand(9, 6))
    table.set_stage("share")
    expected = torch.tensor([1.0, 2, 3, 4])[:, None].expand(4, 6)
    torch.testing.assert_close(table.rows.values(), expected)


def test_rows_that_training_never_touched_are_merged_first():
    """Their squared gradients are zero: nobody reads them."""
    table = make(blocks=30, block=1, sizes=[60], make_rows=FusedRowsFactory(RowOptimizer(lr=0.01)))
    seen = torch.arange(29)
    for _ in range(3):
        torch.autograd.backward((table(seen, seen * 0) * torch.randn(29, 6)).sum())
        table.rows.step()
    with torch.no_grad():
        before = table(seen, seen * 0)
        table.set_stage("share")
        torch.testing.assert_close(table(seen, seen * 0), before)
    assert len(table.index[:29].unique()) == 29


def test_counts_weigh_rows():
    """Where the optimizer is somebody else's, how often ids occur says what may be merged."""
    counts = torch.ones(60, dtype=torch.int64)
    counts[:20] = 10**6
    table = make(blocks=25, block=1, sizes=[60])
    table.use_counts(counts)
    ids = torch.arange(20)
    before = table(ids, ids * 0)
    table.set_stage("share")
    torch.testing.assert_close(table(ids, ids * 0), before, rtol=0, atol=1e-3)


def test_the_index_is_packed_and_counted():
    """As few bits as tell the stored blocks apart, for each block of ids."""
    table = make(blocks=20)
    table.set_stage("share")
    assert table.serve_bytes() == 20 * 4 * 6 * 4 + packed_bytes(45, 1, 5)
    assert table.serve_bytes() == table.config.serve_bytes(table.features, 6)


def test_the_second_stage_is_careful():
    """It begins at the best weights of the first, and click models overfit from there."""
    table = make()
    assert table.learning_rates() == (1.0, 1.0)
    table.set_stage("share")
    assert table.learning_rates() == (0.1, 0.1)


def test_nothing_is_frozen_before_it_is_shared():
    """It would be the full table, not what was claimed."""
    with pytest.raises(RuntimeError, match="before its stage 'share'"):
        make().freeze()


def test_blocks_of_no_rows_are_refused():
    """The error says what to set."""
    with pytest.raises(SlimtabError, match="set block to 1 or more"):
        DedupConfig(block=0)
