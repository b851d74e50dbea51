"""Packed codes: as small as bits allow, and read back from any row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtab.tables.parts.packing import code_bits, pack, packed_bytes, unpack


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 300), bits=st.integers(0, 16), parts=st.integers(1, 8), seed=st.integers(0, 99))
def test_what_goes_in_comes_out(rows, bits, parts, seed):
    """Every width, every alignment, rows in any order and repeated."""
    if parts * bits > 57:
        parts = 57 // bits
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**bits, (rows, parts)))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(rows, parts, bits)
    which = torch.from_numpy(np.random.default_rng(seed + 1).integers(0, rows, 50))
    assert torch.equal(unpack(packed, which, parts, bits), codes[which])


def test_layout_is_little_endian_without_gaps():
    """The file format: another reader needs no more than this."""
    packed = pack(torch.tensor([[1, 2], [3, 0], [7, 5]]), 3)
    number = int.from_bytes(bytes(packed.tolist()), "little")
    assert number == 1 | 2 << 3 | 3 << 6 | 0 << 9 | 7 << 12 | 5 << 15


def test_across_chunks():
    """Chunks end on a byte, so a table larger than one reads as one."""
    rows = (1 << 18) + 5
    codes = torch.arange(rows * 3).view(rows, 3) % 32
    packed = pack(codes, 5)
    which = torch.tensor([0, (1 << 18) - 1, 1 << 18, rows - 1])
    assert torch.equal(unpack(packed, which, 3, 5), codes[which])
    assert len(packed) == packed_bytes(rows, 3, 5)


def test_shapes_need_no_data():
    """Plans are made on the meta device."""
    codes = torch.empty(1000, 4, dtype=torch.int64, device="meta")
    with torch.device("meta"):
        assert pack(codes, 6).shape == (packed_bytes(1000, 4, 6),)


def test_too_wide_a_row_is_refused():
    """58 bits could need nine bytes."""
    with pytest.raises(ValueError, match="wider than 57"):
        pack(torch.zeros(2, 2, dtype=torch.int64), 29)


@pytest.mark.parametrize(("codes", "bits"), [(1, 0), (2, 1), (3, 2), (256, 8), (257, 9)])
def test_bits(codes, bits):
    assert code_bits(codes) == bits
