"""Differences between two settings, run against run of the same seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

_SEEDS_FOR_A_TEST = 3  # two differences say next to nothing about their spread


@dataclass(frozen=True)
class Gap:
    """Differences in test AUC to a baseline, run against run of the same seed.

    Attributes:
        mean: their mean.
        std: their standard deviation; None for a single one.
        p: of a paired t-test; None below three seeds, and where all differences are the same.
        seeds: how many there are.
    """

    mean: float
    std: float | None
    p: float | None
    seeds: int

    def text(self) -> str:
        """Write it for people: ``−0.0020 ± 0.0010, p 0.03``; of a single seed, that it is one."""
        shown = f"{self.mean:+.4f}".replace("-", "−") + ("" if self.std is None else f" ± {self.std:.4f}")
        if self.p is None:
            return f"{shown} ({seeds_text(self.seeds)})"
        return f"{shown}, p " + ("< 0.001" if self.p < 0.001 else f"{self.p:.2g}")


def gap(runs: Iterable[dict[str, Any]], baseline: Iterable[dict[str, Any]]) -> Gap | None:
    """Return how ``runs`` differ from ``baseline`` on the seeds that both have; None without any."""
    aim = {run["seed"]: run["test"]["auc"] for run in baseline}
    pairs = [(run["test"]["auc"], aim[run["seed"]]) for run in runs if run["seed"] in aim]
    if not pairs:
        return None
    differences = [own - other for own, other in pairs]
    std = stdev(differences) if len(differences) > 1 else None
    return Gap(mean(differences), std, _paired_test(pairs, std), len(differences))


def seeds_text(seeds: int) -> str:
    """Write a number of seeds: ``1 seed``."""
    return f"{seeds} seed{'s' * (seeds > 1)}"


def _paired_test(pairs: Sequence[tuple[float, float]], std: float | None) -> float | None:
    if len(pairs) < _SEEDS_FOR_A_TEST or not std:
        return None
    from scipy.stats import ttest_rel

    p = float(ttest_rel(*zip(*pairs, strict=True)).pvalue)
    return p if math.isfinite(p) else None
