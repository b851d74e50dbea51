"""The one error a user is meant to read: a single line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from types import TracebackType


class SlimtabError(Exception):
    """A mistake in input or settings; commands print its message alone, without a traceback."""


class FollowedError(SlimtabError):
    """An error of the leading rank, which reports it, on a rank that ends with it."""


def one_line_errors() -> None:
    """Have a script that meets a :class:`SlimtabError` end with its line alone, as the commands do."""

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, SlimtabError):
            sys.__excepthook__(kind, error, trace)
        elif not isinstance(error, FollowedError):
            print(f"slimtab: {error}", file=sys.stderr)

    sys.excepthook = tell


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or all known words when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=2)
    if close:
        return "; did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return "; known: " + ", ".join(known) if known else "; there are none"
