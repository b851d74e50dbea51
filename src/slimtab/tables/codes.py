"""Codes of several parts for each id, packed by `packing` and read a few parts at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slimtab.tables.packing import pack, packed_bytes

_WINDOW = 8  # bytes per read


def packed_code_bytes(ids: int, parts: int, bits: int) -> int:
    """Return the bytes that ``parts`` codes of ``bits`` bits for each id take; 0 where there are none."""
    return packed_bytes(ids, parts, bits) if ids and bits else 0


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` [ids, parts], integers in [0, 2^bits), into the bytes counted above, uint8."""
    if codes.numel() == 0 or bits == 0:
        return torch.empty(0, dtype=torch.uint8, device=codes.device)
    return pack(codes.reshape(-1, math.gcd(codes.shape[1], 2)), bits)  # the stream of bits is the same


def read_codes(packed: Tensor, first: Tensor, bits: int | Tensor, parts: int, few: int) -> Tensor:
    """Return, in the lowest ``bits`` bits of each number, codes [N, parts] int64; what stands above is noise.

    Args:
        packed: what :func:`pack_codes` made, or several of them one after another.
        first: the bit at which the codes of each id begin [N] int64.
        bits: of a code, for all ids or for each [N, 1].
        parts: codes of each id.
        few: codes to fetch at a time; divides ``parts``. They may begin anywhere in a byte if they have no
            more than 57 bits, and must begin with a byte if they have up to 64.
    """
    if few < parts:
        read = torch.arange(0, parts, few, device=first.device)
        if isinstance(bits, Tensor):
            bits = bits.repeat_interleave(parts // few, dim=0)
            first = first.repeat_interleave(parts // few) + (bits.view(-1, parts // few) * read).flatten()
        else:
            first = (first[:, None] + bits * read).flatten()
    window = packed.unfold(0, _WINDOW, 1).index_select(0, first >> 3).view(torch.int64)
    window = window >> (first & 7)[:, None]
    return (window >> bits * torch.arange(few, device=first.device)).view(-1, parts)
