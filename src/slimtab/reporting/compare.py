"""Runs side by side: quality against bytes, averaged over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from slimtab.errors import SlimtabError
from slimtab.sizes import format_bytes


@dataclass(frozen=True)
class Contender:
    """One setting, over all its seeds.

    Attributes:
        model: network.
        method: compression method.
        share: serving bytes over bytes of the full tables.
        runs: metrics of its runs.
    """

    model: str
    method: str
    share: float
    runs: tuple[dict[str, Any], ...]

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


def contenders(runs: Iterable[dict[str, Any]]) -> list[Contender]:
    """Group runs that differ only in their seed; largest tables first."""

    def setting(run: dict[str, Any]) -> tuple[float, str, str, str]:
        share = run["serve_bytes"] / run["full_bytes"]
        others = json.dumps([run["dim"], run.get("settings")], sort_keys=True)
        return (-share, run["model"], run["method"], others)

    return [
        Contender(model, method, -share, tuple(group))
        for (share, model, method, _), group in groupby(sorted(runs, key=setting), key=setting)
    ]


def markdown(rows: Sequence[Contender]) -> str:
    """Return a Markdown table of contenders."""
    lines = [
        "| model | method | tables | of full | test AUC | test logloss | rows/s | seeds |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.model} | {row.method} | {format_bytes(row.mean('serve_bytes'))} | {row.share:.2%} "
        f"| {with_spread(row, 'auc')} | {with_spread(row, 'logloss')} "
        f"| {row.mean('rows_per_second'):,.0f} | {len(row.runs)} |"
        for row in rows
    ]
    return "\n".join(lines)


def with_spread(row: Contender, figure: str) -> str:
    """Return a test figure's mean over seeds, and its spread where there are several."""
    spread = row.spread("test", figure)
    return f"{row.mean('test', figure):.4f}" + ("" if spread is None else f" ± {spread:.4f}")
