"""The one error a user is meant to read: a single line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SlimtabError(Exception):
    """A mistake in input or settings; commands print its message alone, without a traceback."""


class FollowedError(SlimtabError):
    """An error of the leading rank, which reports it, on a rank that ends with it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or all known words when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=2)
    if close:
        return "; did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return "; known: " + ", ".join(known) if known else "; there are none"
