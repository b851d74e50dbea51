"""Which cells a grid has: budgets a method cannot reach, sizes that no budget changes, runs that coincide."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimtab.config import Rule, RunConfig, TableSettings, load_config
from slimtab.grid.settings import GridConfig, GridMethod
from slimtab.reporting.pivot import share_text
from slimtab.schema import Schema
from slimtab.sizes import Budget
from slimtab.tables.base import TableConfig, get_method
from slimtab.tables.groups import GroupedConfig

OWN_SIZE = "own size"  # the column of methods whose size no budget changes


@dataclass(frozen=True)
class Place:
    """A cell before it is run.

    Attributes:
        data: dataset folder.
        method: its row.
        column: its budget as the table names it.
        budget: what its runs are given; None for a method's own size.
        target: share of the full table that the column allows; None for a method's own size.
        note: why it cannot be run; empty where it can.
    """

    data: str
    method: GridMethod
    column: str
    budget: str | int | None = None
    target: float | None = None
    note: str = ""


def run_config(
    grid: GridConfig, place: Place, point: Mapping[str, Any], seed: int, folder: Path
) -> RunConfig:
    """Return the config of one run.

    Args:
        grid: what all runs share.
        place: method, budget and dataset.
        point: what was tuned, by dotted key.
        seed: of the run.
        folder: of the run.

    Raises:
        SlimtabError: when a setting is unknown or has a wrong value.
    """
    settings = {
        **grid.settings,
        **place.method.settings,
        **point,
        "data": place.data,
        "run": str(folder),
        "seed": seed,
        "model.name": grid.model,
        "table.method": place.method.method,
        "table.budget": place.budget,
        "table.options": place.method.options,
    }
    return load_config(None, copy.deepcopy(settings))


def places(grid: GridConfig, data: str) -> Iterator[Place]:
    """Yield the cells of a dataset, row by row.

    Raises:
        SlimtabError: when there is no such dataset, method or option.
    """
    schema = Schema.load(Path(data) / "schema.json")
    for method in grid.methods:
        settings = run_config(grid, Place(data, method, ""), {}, 0, Path()).table
        yield from _Row(method, schema, settings).places(data, grid.budgets)


class _Row:
    """A method over the features of a dataset."""

    def __init__(self, method: GridMethod, schema: Schema, settings: TableSettings) -> None:
        self.method, self.dim, self.full = method, settings.dim, schema.full_bytes(settings.dim)
        self.features = sorted(schema.features, key=lambda feature: feature.multi_hot)
        self.kind, self.options = get_method(method.method).Config, dict(method.options)
        if settings.rules:
            others = Rule(method.method, 0, self.options)
            self.kind, self.options = GroupedConfig, {"rules": [*settings.rules, others]}
        elif self.options.keys() - {field.name for field in dataclasses.fields(self.kind)}:
            self._at(self.full)  # names the unknown option
        self.smallest = self.kind.smallest_bytes(self.features, self.dim, **self.options)

    def _at(self, nbytes: int) -> TableConfig:
        return self.kind.for_budget(self.features, self.dim, nbytes, **self.options)

    def places(self, data: str, budgets: list[str | int]) -> Iterator[Place]:
        """Yield the row's cells in the order of ``budgets``."""
        if self.smallest <= self.full and self._at(self.smallest) == self._at(self.full):
            yield Place(data, self.method, OWN_SIZE)
            return
        given = self._given({budget: Budget.parse(budget).resolve(self.full) for budget in budgets})
        for budget in budgets:
            target = Budget.parse(budget).resolve(self.full) / self.full
            note = "" if budget in given else f"smallest {share_text(self.smallest / self.full)}"
            yield Place(data, self.method, str(budget), given.get(budget), target, note)

    def _given(self, nbytes: dict[str | int, int]) -> dict[str | int, str | int]:
        """Return what the runs of each reachable budget are given: the least budget of the same table.

        Methods that grow by steps make the same table of two budgets, and it is trained once.
        """
        given: dict[str | int, str | int] = {}
        least: list[tuple[TableConfig, str | int]] = []
        for budget in sorted(nbytes, key=lambda budget: nbytes[budget]):
            if nbytes[budget] >= self.smallest:
                config = self._at(nbytes[budget])
                same = next((other for made, other in least if made == config), None)
                least.append((config, budget))
                given[budget] = budget if same is None else same
        return given
