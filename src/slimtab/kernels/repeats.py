"""Ids that stood a little earlier in the same lookup: their vectors are copied from where they were put.

Ids are skewed: of the 106,496 of a batch, fourteen to twenty-five thousand are distinct. Of an id it is
remembered where it last stood, in a memory that the second cache holds, so that finding and noting it takes
4 ns. Ids that share a place there drive each other out, and are looked up again.
"""

from __future__ import annotations

import numpy as np

from slimtab.kernels.compiling import inlined
from slimtab.kernels.rows import copy_row

WINDOW = 1024  # ids that are told apart before those that are new are read
_PLACES, _FEW = 8192, 64  # powers of two; a fill of many would take longer than a few lookups
_BITS, _TOP = np.int64(32), np.uint64(64 - 13)
_SLOT, _ID = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_LOW = 0xFFFFFFFF


@inlined
def nothing_seen(count):
    """Return a memory for ``count`` positions [places, 2] int64: an id, its feature above where it stood."""
    return np.full((_PLACES if count >= WINDOW else _FEW, 2), -1, dtype=np.int64)


@inlined
def find_repeats(ids, slot, first, stop, seen, new, old):
    """Sort the positions from ``first`` to ``stop`` into new ones and old ones; return how many are new.

    Args:
        ids: [N] int64.
        slot: [N] int64.
        first: at most ``WINDOW`` before ``stop``, which is below 2³².
        stop: the end.
        seen: from :func:`nothing_seen`, for positions in ascending order.
        new: takes positions whose ids have to be looked up [WINDOW].
        old: takes other positions, and for each the one, ahead of it, to copy from [WINDOW, 2].
    """
    fresh, again = np.int64(0), np.int64(0)
    places = np.uint64(len(seen) - 1)
    for position in range(first, stop):
        mixed = (np.uint64(ids[position]) + np.uint64(slot[position]) * _SLOT) * _ID
        place = (mixed >> _TOP) & places
        note = seen[place, 1]
        # Not a branch: which ids come again cannot be foretold.
        same = (seen[place, 0] == ids[position]) & (note >> _BITS == slot[position]) & (note >= 0)
        seen[place, 0] = ids[position]
        seen[place, 1] = position | slot[position] << _BITS
        new[fresh] = position
        old[again, 0] = position
        old[again, 1] = note & _LOW
        fresh += 1 - np.int64(same)
        again += np.int64(same)
    return fresh


@inlined
def copy_repeats(old, count, width, out):
    """Copy the rows of ``count`` old positions in ``out``, flat."""
    for i in range(count):
        copy_row(out, old[i, 1] * width, width, out, old[i, 0] * width)
