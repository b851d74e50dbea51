"""Codes of any number of bits, packed without gaps into bytes, and read back by row.

Row i holds ``parts`` codes of ``bits`` bits, the first in the lowest bits; rows follow one another bit by
bit, lowest bit of a byte first. A read fetches the eight bytes at a row's first bit and shifts: one random
read per row, whatever the number of codes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtab.tables.parts.windows import read_windows

_WINDOW = 8  # bytes per read
PADDING = _WINDOW - 1  # bytes after the last row, so that a window may begin in any
_CHUNK = 1 << 18  # rows packed at a time; a multiple of 8, so that every chunk ends on a byte
MAX_BITS = 57  # of a row: what is left of 64 bits after a shift by up to 7


def code_bits(codes: int) -> int:
    """Return the bits that tell ``codes`` values apart; 0 for a single one."""
    return max(0, (codes - 1).bit_length())


def packed_bytes(rows: int, parts: int, bits: int) -> int:
    """Return the bytes of ``rows`` packed rows, padding included."""
    return -(-rows * parts * bits // 8) + PADDING


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` [rows, parts], integers in [0, 2^bits), into uint8 [packed_bytes(rows, parts, bits)].

    A row may have at most :data:`MAX_BITS` bits.
    """
    rows, parts = codes.shape
    if parts * bits > MAX_BITS:
        raise ValueError(f"a row of {parts} codes of {bits} bits is wider than {MAX_BITS} bits")
    places = torch.arange(bits, device=codes.device)
    weights = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=codes.device)
    packed = []
    for start in range(0, rows, _CHUNK):
        chunk = codes[start : start + _CHUNK].long()
        stream = ((chunk[:, :, None] >> places) & 1).to(torch.uint8).flatten()
        stream = F.pad(stream, (0, -len(stream) % 8))
        packed.append((stream.view(-1, 8) * weights).sum(dim=1, dtype=torch.uint8))
    packed.append(torch.zeros(PADDING, dtype=torch.uint8, device=codes.device))
    return torch.cat(packed)


def read_words(packed: Tensor, first: Tensor) -> Tensor:
    """Return the bits that stand from each of ``first`` [N] int64 on, as the lowest of an int64 [N].

    They are 57 at least, and all 64 where ``first`` begins a byte; what stands above them is noise.
    """
    window = read_windows(packed, first >> 3, _WINDOW).view(torch.int64)
    return window.squeeze(1).bitwise_right_shift_(first & 7)


def unpack(packed: Tensor, rows: Tensor, parts: int, bits: int) -> Tensor:
    """Return codes [N, parts] int64 of the ``rows`` [N] int64 of what :func:`pack` made."""
    if bits == 0:
        return torch.zeros(len(rows), parts, dtype=torch.int64, device=rows.device)
    words = read_words(packed, rows * (parts * bits))[:, None]
    if parts > 1:
        words = words >> bits * torch.arange(parts, device=rows.device)
    return words.bitwise_and_((1 << bits) - 1)
