"""Help for budgets: the largest whole number that still fits."""

from __future__ import annotations

from collections.abc import Callable


def largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number in ``low … high`` for which ``fits`` holds, by bisection.

    ``fits`` holds at ``low`` and, once it fails, fails for everything larger.
    """
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
