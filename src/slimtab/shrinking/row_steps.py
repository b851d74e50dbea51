"""int8, int4 and int2: a least value and a step for each row, fitted to the row.

Eight bits reach from the row's least value to its greatest. With fewer, the ends are worth giving up: from
several narrower starts the line through codes and values is fitted by least squares and the row coded anew,
in turns, as in Lloyd's algorithm (1982) for evenly spaced levels; the best of all turns is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slimtab.shrinking.vectors import Vectors
from slimtab.tables.fitted.row_steps import FrozenRowSteps, RowSteps, pack_rows

_WIDTHS = (1.0, 0.85, 0.7, 0.55)  # of the row's range, where fits start
_TURNS = 4
_CHUNK = 1 << 14  # rows at a time: they stay in the cache
_LEAST = 2.0**-24  # the smallest step that half precision holds
_HALF_ULP = 2.0**-11  # how far rounding to it moves a number at most, as a share


def fit_row_steps(vectors: Vectors, config: RowSteps, told: Callable[[int], object]) -> FrozenRowSteps:
    """Code vectors row by row, in one pass.

    Args:
        vectors: what to code.
        config: bits of each coordinate.
        told: called with the rows done.
    """
    codes = torch.empty(vectors.rows, config.row_bytes(vectors.dim), dtype=torch.uint8)
    lines = torch.empty(vectors.rows, 2, dtype=torch.float16)
    for start, chunk in vectors.chunks(_CHUNK):
        stop = start + len(chunk)
        found, lines[start:stop] = code_rows(chunk, config.bits)
        codes[start:stop] = pack_rows(found, config.bits)
        told(len(chunk))
    return FrozenRowSteps(config.bits, vectors.dim, codes, lines, vectors.offset)


def code_rows(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return codes [N, d] uint8 of ``values`` [N, d] float32, and their lines [N, 2] float16."""
    most = (1 << bits) - 1
    low, high = values.aminmax(dim=1, keepdim=True)
    if bits == 8:
        # Rounded outwards, so that no end is out of reach: a step short by little is short 255 times.
        low = (low - low.abs() * _HALF_ULP - _LEAST / 2).half().float()
        lines = _line(low, (high - low) / most * (1 + _HALF_ULP) + _LEAST / 2)
        return _codes(values, lines, most).to(torch.uint8), lines
    best_error = torch.full_like(low, torch.inf)
    best_codes, best_lines = torch.empty_like(values), torch.empty(len(values), 2, dtype=torch.float16)
    for width in _WIDTHS:
        cut = (high - low) * ((1 - width) / 2)
        lines = _line(low + cut, (high - low) * (width / most))
        for _ in range(_TURNS):
            codes = _codes(values, lines, most)
            left = torch.addcmul(values - lines[:, :1].float(), codes, lines[:, 1:].float(), value=-1)
            error = left.square().sum(dim=1, keepdim=True)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_codes = torch.where(better, codes, best_codes)
            best_lines = torch.where(better, lines, best_lines)
            lines = _fitted(values, codes)
    return best_codes.to(torch.uint8), best_lines


def _line(low: Tensor, step: Tensor) -> Tensor:
    return torch.cat([low, step.clamp(min=_LEAST)], dim=1).half()


def _codes(values: Tensor, lines: Tensor, most: int) -> Tensor:
    """Return the nearest codes [N, d] as floats, for lines as they are served."""
    low, step = lines.float().unbind(dim=1)
    return torch.sub(values, low[:, None]).mul_(step.reciprocal()[:, None]).round_().clamp_(0, most)


def _fitted(values: Tensor, codes: Tensor) -> Tensor:
    """Return the lines of least squares through codes and values."""
    code_mean, mean = codes.mean(dim=1, keepdim=True), values.mean(dim=1, keepdim=True)
    apart = codes - code_mean
    spread = apart.square().sum(dim=1, keepdim=True)
    step = (apart * (values - mean)).sum(dim=1, keepdim=True) / spread.clamp(min=1e-12)
    return _line(mean - step * code_mean, step)
