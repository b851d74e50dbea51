"""Where a kept row stands among those kept, told by a bitmap with ranks."""

from __future__ import annotations

import numpy as np

from slimtab.kernels.compiling import inlined, row_of
from slimtab.kernels.intrinsics import count_ones


@inlined
def rank_of(words, ranks, address):
    """Return whether the row at ``address`` is kept, 0 or 1, and how many are kept before it.

    ``words`` and ``ranks`` are those of :func:`~slimtab.tables.parts.bitmap.pack_bitmap`.
    """
    word = row_of(address >> 6, len(words))
    bits = np.uint64(words[word]) << np.uint64(63 - (address & 63))  # its own bit the highest
    there = np.int64(bits >> np.uint64(63))
    return there, ranks[word] + count_ones(bits) - there
