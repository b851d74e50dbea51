"""Bitmap and ranks: equal to counting by hand, for any rows, in the bytes that are claimed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtab.tables.parts.bitmap import bitmap_bytes, pack_bitmap, position


def reference(kept):
    """How many are kept before each row, 0 where it is not kept: one row after another."""
    before, count = np.zeros(len(kept), dtype=np.int64), 0
    for row, is_kept in enumerate(kept):
        before[row] = count if is_kept else 0
        count += bool(is_kept)
    return before


def agree(kept):
    """Compare every row with the reference."""
    mask = torch.from_numpy(np.asarray(kept, dtype=bool))
    found, is_kept = position(*pack_bitmap(mask), torch.arange(len(mask)))
    assert found.dtype == torch.int64
    assert torch.equal(is_kept, mask)
    assert np.array_equal(found.numpy(), reference(kept))


@settings(deadline=None, max_examples=200)
@given(kept=st.lists(st.booleans(), min_size=1, max_size=300))
def test_any_mask(kept):
    """The edges of words and of counts are where bit tricks go wrong."""
    agree(kept)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 3000), share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_any_density(rows, share, seed):
    """All rows, hardly any, none."""
    agree(np.random.default_rng(seed).random(rows) < share)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 128, 1000])
@pytest.mark.parametrize("value", [False, True])
def test_all_and_none(rows, value):
    """A full word counts 63 before its last row; an empty one may not read as negative."""
    agree([value] * rows)


@pytest.mark.parametrize("bit", range(64))
def test_every_single_bit(bit):
    """The highest bit is the sign of its word: it is a row like the others."""
    one, all_but_one = np.zeros(64, dtype=bool), np.ones(64, dtype=bool)
    one[bit], all_but_one[bit] = True, False
    agree(one)
    agree(all_but_one)


def test_positions_read_a_table_with_a_row_for_all_that_is_not_kept():
    """What it is for: kept rows in one matrix, zeros for all others."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(500, 4, generator=generator)
    kept = torch.rand(500, generator=generator) < 0.3
    table = torch.cat([torch.zeros(1, 4), dense[kept]])
    address = torch.randint(500, (2000,), generator=generator)
    place, is_kept = position(*pack_bitmap(kept), address)
    assert torch.equal(table[place + is_kept], dense[address] * kept[address][:, None])


def test_ranks_beyond_two_to_the_24():
    """Counts are whole numbers throughout; a float32 would lose the last ones."""
    kept = torch.ones(2**24 + 200, dtype=torch.bool)
    address = torch.arange(2**24, 2**24 + 200)
    assert torch.equal(position(*pack_bitmap(kept), address)[0], address)


@settings(deadline=None, max_examples=15)
@given(rows=st.integers(1, 10**9))
def test_bytes_are_what_is_stored(rows):
    """The budget counts by the formula, the file by the buffers: 1.5 bits a row and no more than a word."""
    words, ranks = pack_bitmap(torch.empty(rows, dtype=torch.bool, device="meta"))
    assert words.dtype == torch.int64
    assert ranks.dtype == torch.int32
    assert bitmap_bytes(rows) == 8 * len(words) + 4 * len(ranks) <= 1.5 * rows / 8 + 12


def test_no_rows_at_all():
    """An empty batch has no positions."""
    place, kept = position(*pack_bitmap(torch.ones(10, dtype=torch.bool)), torch.empty(0, dtype=torch.int64))
    assert place.shape == kept.shape == (0,)


def test_compiles_and_exports_alike():
    """Integers that wrap must wrap there too."""

    class Read(torch.nn.Module):
        def __init__(self, words, ranks):
            super().__init__()
            self.register_buffer("words", words)
            self.register_buffer("ranks", ranks)

        def forward(self, address):
            return position(self.words, self.ranks, address)

    kept = torch.rand(1000, generator=torch.Generator().manual_seed(1)) < 0.8
    read, address = Read(*pack_bitmap(kept)), torch.arange(1000)
    program = torch.export.export(
        read, (address[:9],), dynamic_shapes=({0: torch.export.Dim("rows", min=2)},)
    )
    torch.compiler.reset()
    compiled = torch.compile(read, fullgraph=True, backend="eager", dynamic=True)
    for other in (program.module(), compiled):
        assert all(torch.equal(a, b) for a, b in zip(other(address), read(address), strict=True))
