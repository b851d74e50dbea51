"""One row of an array to one of another, four elements at a time where its width allows.

All arrays are flat. ``width`` is known when a kernel is compiled, so that nothing of the choice is left.
"""

from __future__ import annotations

import numpy as np

from slimtab.kernels.compiling import inlined
from slimtab.kernels.intrinsics import half_at, multiply_add
from slimtab.kernels.vectors import add4_scaled, copy4, copy4_kept, copy4_scaled, multiply4, sum4, sum16


@inlined
def copy_row(values, start, width, out, place):
    """Copy ``values[start:start + width]``, elements of 32 bits, to ``out[place:]``."""
    if width % 4 == 0:
        for column in range(0, width, 4):
            copy4(out, place + column, values, start + column)
    else:
        for column in range(width):
            out[place + column] = values[start + column]


@inlined
def copy_kept(values, start, kept, width, out, place):
    """Copy the ``kept`` first floats, and zeros for the others; all ``width`` may be read."""
    if width % 4 == 0:
        for column in range(0, width, 4):
            copy4_kept(out, place + column, values, start + column, kept - np.int32(column))
    else:
        for column in range(width):
            out[place + column] = values[start + column] if column < kept else np.float32(0)


@inlined
def copy_scaled(values, start, factor, shift, width, out, place):
    """Copy floats times ``factor``, plus ``shift``."""
    if width % 4 == 0:
        for column in range(0, width, 4):
            copy4_scaled(out, place + column, values, start + column, factor, shift)
    else:
        for column in range(width):
            out[place + column] = values[start + column] * factor + shift


@inlined
def add_scaled(values, start, factor, width, out, place):
    """Add floats times ``factor`` to what is there."""
    if width % 4 == 0:
        for column in range(0, width, 4):
            add4_scaled(out, place + column, values, start + column, factor)
    else:
        for column in range(width):
            out[place + column] = multiply_add(values[start + column], factor, out[place + column])


@inlined
def sum_rows(values, starts, row, count, width, out, place):
    """Add up floats from each of ``starts[row, :count]`` on, where ``starts`` is [R, S] int64.

    ``values`` may be int16, the bits of floats in half precision.
    """
    if width % 16 == 0:
        for column in range(0, width, 16):
            sum16(out, place + column, values, starts, row, count, column)
    elif width % 4 == 0:
        for column in range(0, width, 4):
            sum4(out, place + column, values, starts, row, count, column)
    else:
        for column in range(width):
            total = np.float32(0)
            for number in range(count):
                start = starts[row, number] + column
                total += half_at(values, start) if values.itemsize == 2 else np.float32(values[start])
            out[place + column] = total


@inlined
def multiply_row(values, start, width, out, place):
    """Multiply what is there by floats."""
    if width % 4 == 0:
        for column in range(0, width, 4):
            multiply4(out, place + column, values, start + column)
    else:
        for column in range(width):
            out[place + column] *= values[start + column]
