"""Codes come back as they went in, part by part or a byte each, whatever stands around them."""

import pytest
import torch

from slimtab.tables.parts.codes import pack_codes, packed_code_bytes, read_codes, widen_codes


@pytest.mark.parametrize(("parts", "bits"), [(1, 1), (3, 7), (4, 13), (4, 28), (8, 20)])
def test_codes_are_read_part_by_part(parts, bits):
    """Also where a word does not hold all of them."""
    codes = torch.randint(1 << bits, (50, parts), generator=torch.Generator().manual_seed(0))
    packed = pack_codes(codes, bits)
    assert len(packed) == packed_code_bytes(50, parts, bits)
    which = torch.tensor([49, 0, 7, 7])
    read = read_codes(packed, which * parts * bits, bits, parts)
    assert torch.equal(torch.stack(read, dim=1), codes[which])


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_widened_to_bytes(bits):
    """What stands above the eight codes does not get into them."""
    words = torch.randint(-(2**63), 2**63 - 1, (200, 2), generator=torch.Generator().manual_seed(0))
    before = words.clone()
    widened = widen_codes(words, bits).view(torch.uint8).view(200, 2, 8)
    expected = (words[:, :, None] >> bits * torch.arange(8)) & ((1 << bits) - 1)
    assert torch.equal(widened.long(), expected)
    assert torch.equal(words, before)
