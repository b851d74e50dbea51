"""Codes that are fitted to trained tables and never train: what they are rebuilt from when a file is loaded.

A method of training rebuilds its frozen table from its config. A code has no training to go with it, so its
settings, a frozen dataclass of plain values, know how to make an empty frozen table themselves.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from slimtab.registry import import_modules
from slimtab.schema import Feature
from slimtab.tables.base import FrozenTable, in_last_stage
from slimtab.tables.grouped import group_tables, read_config
from slimtab.tables.rows.plain import PlainRows

_CODES: dict[str, type[Code]] = {}


class Code(abc.ABC):
    """Settings of a code; a subclass is a frozen dataclass and enters the registry by being defined.

    Attributes:
        method: registered name, which no method of training has.
    """

    method: ClassVar[str]

    def __init_subclass__(cls, method: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.method = method
        _CODES[method] = cls

    @abc.abstractmethod
    def empty(self, features: Sequence[Feature], dim: int) -> FrozenTable:
        """Return a frozen table of the right shapes, for a file to be loaded into."""


def empty_table(method: str, plain: Mapping[str, Any], features: Sequence[Feature], dim: int) -> FrozenTable:
    """Return a frozen table of the right shapes from what JSON says of it.

    Args:
        method: of training, or a code's.
        plain: its settings.
        features: the group it serves, in slot order.
        dim: output width.

    Raises:
        SlimtabError: when nothing has that name.
    """
    codes = _codes()
    if method in codes:
        return codes[method](**plain).empty(features, dim)
    if method == "grouped" and any(group["method"] in codes for group in plain["groups"]):
        tables = [
            empty_table(group["method"], group["config"], [features[slot] for slot in group["slots"]], dim)
            for group in plain["groups"]
        ]
        return group_tables([group["slots"] for group in plain["groups"]], tables, dim)
    kind, config = read_config(method, plain)
    return in_last_stage(kind(config, features, dim, PlainRows, 0.0)).freeze()


def _codes() -> dict[str, type[Code]]:
    """Return all codes by name."""
    import_modules("slimtab.tables.fitted")
    return _CODES
