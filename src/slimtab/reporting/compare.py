"""Runs side by side: quality against bytes, averaged over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from slimtab.config import flat
from slimtab.errors import SlimtabError
from slimtab.hull import hull
from slimtab.reporting.pairs import Gap, gap
from slimtab.sizes import format_bytes


@dataclass(frozen=True)
class Contender:
    """One setting, over all its seeds.

    Attributes:
        model: network.
        method: compression method.
        share: serving bytes over bytes of the full tables.
        runs: metrics of its runs.
        variant: the settings in which it differs from others of the same model and method, where any do.
        to_full: its difference to the full tables, seed by seed; None without those, and for themselves.
    """

    model: str
    method: str
    share: float
    runs: tuple[dict[str, Any], ...]
    variant: str = ""
    to_full: Gap | None = None

    @property
    def name(self) -> str:
        """Method and variant."""
        return f"{self.method} {self.variant}".rstrip()

    @property
    def lookup_ratio(self) -> float | None:
        """Time of a frozen lookup over the full table's; None where no run was measured."""
        ratios = [run["lookup"]["ratio"] for run in self.runs if "lookup" in run]
        return mean(ratios) if ratios else None

    def mean(self, *keys: str) -> float:
        """Mean of a figure over the runs; ``keys`` walk into ``metrics.json``."""
        return mean(self._values(keys))

    def spread(self, *keys: str) -> float | None:
        """Standard deviation over the runs; None for a single one."""
        return stdev(self._values(keys)) if len(self.runs) > 1 else None

    def _values(self, keys: Sequence[str]) -> list[float]:
        values = []
        for run in self.runs:
            value: Any = run
            for key in keys:
                value = value[key]
            values.append(float(value))
        return values


def load_runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Read ``metrics.json`` of each run folder.

    Raises:
        SlimtabError: when a folder holds no finished run, or the runs are of different data.
    """
    runs = [_load_run(folder) for folder in folders]
    prints = {run["data"]["fingerprint"] for run in runs}
    if len(prints) > 1:
        raise SlimtabError(
            "the runs were trained on differently prepared data and cannot be compared; "
            "compare those of one dataset"
        )
    return runs


def _load_run(folder: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SlimtabError(
            f"{folder} holds no finished run ({error}); `slimtab train` it to the end first"
        ) from error
    return run


def contenders(runs: Iterable[dict[str, Any]], full: str = "full") -> list[Contender]:
    """Group runs that differ only in their seed; largest tables first.

    Args:
        runs: metrics of the runs.
        full: the method whose tables the others are compared with, within a model and a width. Where it was
            run with several settings, that with the lowest validation logloss is taken.
    """

    def setting(run: dict[str, Any]) -> tuple[str, str, str]:
        # What a method keeps may differ by seed. Runs of earlier versions are told apart by their size alone.
        others = json.dumps([run["dim"], run.get("settings", run["serve_bytes"])], sort_keys=True)
        return (run["model"], run["method"], others)

    groups = [tuple(group) for _, group in groupby(sorted(runs, key=setting), key=setting)]
    groups.sort(key=_share, reverse=True)
    baselines: dict[tuple[str, int], tuple[dict[str, Any], ...]] = {}
    for group in sorted(groups, key=_valid_loss, reverse=True):
        if group[0]["method"] == full:
            baselines[group[0]["model"], group[0]["dim"]] = group
    rows = []
    for group, variant in zip(groups, _variants(groups), strict=True):
        first = group[0]
        baseline = baselines.get((first["model"], first["dim"]), ())
        to_full = None if baseline is group else gap(group, baseline)
        rows.append(Contender(first["model"], first["method"], _share(group), group, variant, to_full))
    return rows


def _share(group: tuple[dict[str, Any], ...]) -> float:
    return mean(float(run["serve_bytes"] / run["full_bytes"]) for run in group)


def _valid_loss(group: tuple[dict[str, Any], ...]) -> float:
    return mean(float(run["valid"]["logloss"]) for run in group)


def _variants(groups: Sequence[tuple[dict[str, Any], ...]]) -> Iterator[str]:
    """Yield for each group the settings that others of its model and method have otherwise; budgets aside."""
    settings = [flat({"dim": group[0]["dim"], **group[0].get("settings", {})}) for group in groups]
    for own in settings:
        own.pop("table.dim", None)  # stands at the top, too
    for group, own in zip(groups, settings, strict=True):
        alike = [
            other
            for them, other in zip(groups, settings, strict=True)
            if all(them[0][key] == group[0][key] for key in ("model", "method"))
        ]
        differing = [key for key in own if any(other.get(key) != own[key] for other in alike)]
        yield ", ".join(f"{key.rpartition('.')[2]}={own[key]}" for key in differing if key != "table.budget")


HEAD = (
    "model", "method", "tables", "of full", "test AUC", "test logloss", "AUC to full, by seed", "rows/s",
    "lookup", "seeds",
)  # fmt: skip
SPEEDS = (
    "Speeds are as they were measured: runs made side by side slow each other down. lookup: "
    "processor time of a frozen lookup of 4096 rows, over that of the full table, which took turns with it."
)


def best_of(rows: Sequence[Contender]) -> list[Contender]:
    """Return the hull: what nothing beats in both bytes and test AUC, from small to large."""
    return hull(rows, lambda row: row.mean("serve_bytes"), lambda row: row.mean("test", "auc"))


def markdown(rows: Sequence[Contender]) -> str:
    """Return a Markdown table of contenders, and a line about its speeds."""
    lines = [
        f"| {' | '.join(HEAD)} |",
        "|---|---|" + "--:|" * (len(HEAD) - 2),
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]
    return "\n".join([*lines, "", SPEEDS])


def cells(row: Contender) -> list[str]:
    """Return a contender's line of a table: model, method, bytes, share, quality, speeds, seeds."""
    return [
        row.model,
        row.name,
        format_bytes(row.mean("serve_bytes")),
        f"{row.share:.2%}",
        with_spread(row, "auc"),
        with_spread(row, "logloss"),
        "–" if row.to_full is None else row.to_full.text(),
        f"{row.mean('rows_per_second'):,.0f}",
        "–" if row.lookup_ratio is None else f"{row.lookup_ratio:.{1 * (row.lookup_ratio < 10)}f} ×",
        str(len(row.runs)),
    ]


def with_spread(row: Contender, figure: str) -> str:
    """Return a test figure's mean over seeds, and its spread where there are several."""
    spread = row.spread("test", figure)
    return f"{row.mean('test', figure):.4f}" + ("" if spread is None else f" ± {spread:.4f}")
