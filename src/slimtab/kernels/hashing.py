"""64-bit mixing and salted hashing: what :mod:`slimtab.tables.hashing` says in many passes, in one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, inlined, kernel, row_of

_MULTIPLY_1, _MULTIPLY_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_FLIP = np.uint64(0x80000000)  # halves are told apart as signed, from the lowest on
_BITS, _TOP = np.uint64(31), np.uint64(33)


@inlined
def mix(word):
    """Scramble a word."""
    word = np.uint64(word)
    word = (word ^ (word >> np.uint64(30))) * _MULTIPLY_1
    word = (word ^ (word >> np.uint64(27))) * _MULTIPLY_2
    return word ^ (word >> np.uint64(31))


@inlined
def place_in(mixed, rows):
    """Return the row in ``[0, rows)`` of a mixed word."""
    return np.int64(((mixed >> _TOP) * np.uint64(rows)) >> _BITS)


@inlined
def low_place(mixed, places):
    """Return the place in ``[0, places)`` that the lower half of a mixed word tells."""
    return np.int64((((mixed & _LOW) ^ _FLIP) * np.uint64(places)) >> _HALF)


@inlined
def high_place(mixed, places):
    """Return the place in ``[0, places)`` that the upper half of a mixed word tells."""
    return np.int64((((mixed >> _HALF) ^ _FLIP) * np.uint64(places)) >> _HALF)


@inlined
def mix_block(ids, slot, salt, first, count, width, words):
    """Fill ``words`` [width, BLOCK] uint64 with the mixed words of ``count`` ids from ``first`` on.

    ``salt`` is [F, width]. Mixing goes by the block, which compiles to vectors.
    """
    for i in range(count):
        own = row_of(slot[first + i], len(salt))
        for number in range(width):
            words[number, i] = np.uint64(ids[first + i] ^ salt[own, number])
    for number in range(width):
        for i in range(BLOCK):
            words[number, i] = mix(words[number, i])


@kernel
def _mix(begin, end, words, out):
    for i in range(begin, end):
        out[i] = np.int64(mix(words[i]))


@kernel
def _rows(begin, end, words, rows, out):
    for i in range(begin, end):
        out[i] = place_in(mix(words[i]), rows)


@kernel
def _rows_of(begin, end, words, rows, out):
    for i in range(begin, end):
        out[i] = place_in(mix(words[i]), rows[i])


@functools.cache
def _own_rows(probes: int) -> Any:
    @kernel
    def own_rows(begin, end, ids, slot, salt, rows, start, exact, out):
        words = np.zeros((probes, BLOCK), dtype=np.uint64)
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            mix_block(ids, slot, salt, first, count, probes, words)
            for i in range(count):
                own = np.uint64(slot[first + i])
                for probe in range(probes):
                    hashed = place_in(words[probe, i], rows[own])
                    out[(first + i) * probes + probe] = start[own] + (
                        ids[first + i] if exact[own] else hashed
                    )

    return own_rows


def mix64(words: Tensor) -> Tensor:
    """Scramble int64 of any shape."""
    out = torch.empty_like(words)
    in_parts(_mix, words.numel(), words.view(-1), out.view(-1))
    return out


def hash_rows(words: Tensor, rows: Tensor | int) -> Tensor:
    """Hash salted ``words`` int64 into ``[0, rows)``; ``rows`` is a number, or broadcast against them."""
    out = torch.empty_like(words)
    if isinstance(rows, int):
        in_parts(_rows, words.numel(), words.view(-1), rows, out.view(-1))
    else:
        in_parts(_rows_of, words.numel(), words.view(-1), rows.expand_as(words).reshape(-1), out.view(-1))
    return out


def hash_own_rows(
    ids: Tensor, slot: Tensor, salt: Tensor, rows: Tensor, first: Tensor, exact: Tensor
) -> Tensor:
    """Return row numbers [N, probes] int64, one for each column of ``salt`` [F, probes].

    Args:
        ids: [N] int64.
        slot: [N] int64.
        salt: one column for each probe.
        rows: of each feature [F] int64.
        first: of them [F] int64.
        exact: features whose ids are rows themselves [F] bool.
    """
    out = torch.empty(len(ids), salt.shape[1], dtype=torch.int64)
    in_parts(_own_rows(out.shape[1]), len(ids), ids, slot, salt, rows, first, exact, out.view(-1))
    return out
