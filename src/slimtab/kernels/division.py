"""Division of ids by what is not known before, at the price of a product."""

from __future__ import annotations

import numpy as np

from slimtab.kernels.compiling import inlined


@inlined
def divide(number, by, inverse):
    """Return quotient and remainder of ``number``, int64 in [0, 2^52); ``inverse`` is 1 / ``by``."""
    quotient = np.int64(np.float64(number) * inverse)
    rest = number - quotient * by
    # The product may be off by one, either way.
    if rest < 0:
        return quotient - 1, rest + by
    if rest >= by:
        return quotient + 1, rest - by
    return quotient, rest
