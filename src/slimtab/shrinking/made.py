"""What a method of shrinking makes of a group of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from slimtab.tables.base import FrozenTable


class Made(NamedTuple):
    """A group of tables, coded.

    Attributes:
        method: what the frozen table is rebuilt as; see :func:`slimtab.tables.fitted.empty_table`.
        config: its settings, as plain values.
        table: the frozen table.
        shares: of its bytes that each feature takes, up to one factor.
    """

    method: str
    config: dict[str, Any]
    table: FrozenTable
    shares: Sequence[float]
