"""Rows of any width from any place of an array, asked for ahead of being copied."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from slimtab.kernels.compiling import BLOCK, in_parts, kernel, row_of
from slimtab.kernels.intrinsics import prefetch, prefetch_block
from slimtab.kernels.ranks import rank_of
from slimtab.kernels.rows import copy_kept, copy_row

_AHEAD = 16  # windows under way at a time


@functools.cache
def _windows(width: int) -> Any:
    @kernel
    def windows(begin, end, values, starts, stride, out):
        places = len(values) - width + 1
        for i in range(begin, end):
            if i + _AHEAD < end:
                prefetch(values, starts[i + _AHEAD] * stride)
            start = starts[i] * stride
            row_of(start, places)
            if values.itemsize == 4:
                copy_row(values, start, width, out, i * width)
            else:
                for column in range(width):
                    out[i * width + column] = values[start + column]

    return windows


@functools.cache
def _narrow(width: int) -> Any:
    @kernel
    def narrow(begin, end, values, first, widths, ids, slot, out):
        places = len(values) - width + 1
        for i in range(begin, end):
            if i + _AHEAD < end:
                ahead = row_of(slot[i + _AHEAD], len(widths))
                prefetch(values, first[ahead] + ids[i + _AHEAD] * widths[ahead])
            own = row_of(slot[i], len(widths))
            start, kept = first[own] + ids[i] * widths[own], np.int32(widths[own])
            row_of(start, places)
            copy_kept(values, start, kept, width, out, i * width)

    return narrow


@functools.cache
def _kept(width: int) -> Any:
    @kernel
    def kept(begin, end, values, words, ranks, offset, base, widths, ids, slot, out):
        starts, columns = np.empty(BLOCK, dtype=np.int64), np.empty(BLOCK, dtype=np.int32)
        for first in range(begin, end, BLOCK):
            count = min(BLOCK, end - first)
            for i in range(count):
                own = row_of(slot[first + i], len(widths))
                there, rank = rank_of(words, ranks, offset[own] + ids[first + i])
                starts[i] = there * (base[own] + rank * widths[own])
                columns[i] = there * widths[own]
                row_of(starts[i], len(values) - width + 1)
                prefetch_block(values, starts[i])
            for i in range(count):
                copy_kept(values, starts[i], columns[i], width, out, (first + i) * width)

    return kept


def read_windows(values: Tensor, starts: Tensor, width: int) -> Tensor:
    """Return [N, width]: the elements of ``values`` [M] that follow each of ``starts`` [N] int64."""
    out = values.new_empty(len(starts), width)
    in_parts(_windows(width), len(starts), values, starts, 1, out.view(-1))
    return out


def read_rows(matrix: Tensor, address: Tensor) -> Tensor:
    """Return rows [N, w] of ``matrix`` [M, w] at ``address`` [N], integers."""
    width = matrix.shape[1]
    out = matrix.new_empty(len(address), width)
    in_parts(_windows(width), len(address), matrix.view(-1), address, width, out.view(-1))
    return out


def read_narrow(
    values: Tensor, first: Tensor, widths: Tensor, ids: Tensor, slot: Tensor, width: int
) -> Tensor:
    """Return [N, width]: rows of ``widths`` [F], a feature's from ``first`` [F] on, padded with zeros."""
    out = values.new_empty(len(ids), width)
    in_parts(_narrow(width), len(ids), values, first, widths, ids, slot, out.view(-1))
    return out


def read_kept(
    values: Tensor,
    bitmap: tuple[Tensor, Tensor],
    offset: Tensor,
    base: Tensor,
    widths: Tensor,
    ids: Tensor,
    slot: Tensor,
    width: int,
) -> Tensor:
    """Return [N, width]: rows that a bitmap keeps, of ``widths`` [F], padded with zeros; zeros for others.

    Args:
        values: [M] float32.
        bitmap: words and ranks, of :func:`~slimtab.tables.parts.bitmap.pack_bitmap`.
        offset: where each feature's ids begin in the bitmap [F] int64.
        base: where the values of row 0 of all would begin, were they as wide as each feature's [F] int64.
        widths: [F] int64.
        ids: [N] int64.
        slot: [N] int64.
        width: of what is returned.
    """
    out = values.new_empty(len(ids), width)
    in_parts(_kept(width), len(ids), values, *bitmap, offset, base, widths, ids, slot, out.view(-1))
    return out
