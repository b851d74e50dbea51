"""Codes of several parts for each id, packed by `packing` and read back part by part, or as bytes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slimtab.tables.parts.packing import MAX_BITS, pack, packed_bytes, read_words

_BYTE = 8  # bits


def packed_code_bytes(ids: int, parts: int, bits: int) -> int:
    """Return the bytes that ``parts`` codes of ``bits`` bits for each id take; 0 where there are none."""
    return packed_bytes(ids, parts, bits) if ids and bits else 0


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` [ids, parts], integers in [0, 2^bits), into the bytes counted above, uint8."""
    if codes.numel() == 0 or bits == 0:
        return torch.empty(0, dtype=torch.uint8, device=codes.device)
    return pack(codes.reshape(-1, math.gcd(codes.shape[1], 2)), bits)  # the stream of bits is the same


def read_codes(packed: Tensor, first: Tensor, bits: int, parts: int) -> list[Tensor]:
    """Return codes [N] int64 of each part.

    Args:
        packed: what :func:`pack_codes` made.
        first: the bit at which the codes of each id begin [N] int64.
        bits: of a code.
        parts: codes of each id.
    """
    few, mask = MAX_BITS // bits, (1 << bits) - 1
    words = [read_words(packed, first + part * bits) for part in range(0, parts, few)]
    return [(words[part // few] >> part % few * bits).bitwise_and_(mask) for part in range(parts)]


def widen_codes(words: Tensor, bits: int) -> Tensor:
    """Give each of the eight lowest codes of ``words`` int64 a byte of its own, lowest code first.

    Halves of eight codes move apart, then halves of four, then codes: far fewer passes than a shift for each.

    Args:
        words: any shape.
        bits: of a code, at most 8.
    """
    if bits == _BYTE:
        return words
    for lane in (32, 16, 8):
        half = lane // _BYTE * bits  # bits to keep in each lane
        low = sum(((1 << half) - 1) << start for start in range(0, 64, 2 * lane))
        high = (words << lane - half).bitwise_and_(low << lane)
        words = (words & low).bitwise_or_(high)
    return words
