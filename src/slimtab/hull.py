"""What nothing beats in both bytes and quality."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def hull(
    items: Iterable[Item], nbytes: Callable[[Item], float], quality: Callable[[Item], float]
) -> list[Item]:
    """Return what no other beats in both, from small to large; one of equals stays."""
    best: list[Item] = []
    for item in sorted(items, key=lambda item: (nbytes(item), -quality(item))):
        if not best or quality(item) > quality(best[-1]):
            best.append(item)
    return best
