"""A plan for people: a page that says why, and a picture of where the bytes go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slimtab.files import written
from slimtab.planning.plan import Entrant, Plan
from slimtab.sizes import format_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_plan(
    folder: Path, plan: Plan, entrants: Sequence[Entrant], winner: Entrant, full_bytes: int
) -> None:
    """Write ``plan.md`` and ``plan.png``.

    Args:
        folder: where to.
        plan: what was planned.
        entrants: what was trained, the full tables first.
        winner: the one that is served.
        full_bytes: of the full tables.
    """
    compared = [("", "validation logloss", "AUC", "bytes", "of full")] + [
        (
            f"**{e.name}**" if e is winner else e.name,
            f"{e.logloss:.5f}",
            f"{e.auc:.5f}",
            format_bytes(e.nbytes),
            f"{e.nbytes / full_bytes:.1%}",
        )
        for e in entrants
    ]
    said = (
        "The plan below is what is served."
        if winner.name == "plan"
        else "The plan below was trained too, and lost: "
        f"`{winner.name}` alone had a validation logloss lower by more than noise, and is served."
    )
    if not plan.moved:
        said += (
            " The plan is what `rq` chooses by itself: no other division of these bytes betters the "
            "validation logloss by more than two standard errors."
        )
    text = [
        "# Plan",
        said,
        _markdown(compared),
        "## By feature",
        "What one feature would lose or gain in validation logloss (nats) on another step, all others "
        "staying as planned, before anything was trained through the codes. “3 × 8 bits” is a sum of three "
        "codewords, each one of 256 that are the feature's own and counted with it. Codewords that features "
        f"share, as those of “24 bits, shared”, take {format_bytes(plan.shared_bytes)} beside these bytes.",
        _markdown(plan.rows()),
    ]
    with written(folder / "plan.md") as beside:
        beside.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    with written(folder / "plan.png") as beside:
        _figure(plan).savefig(beside, format="png", dpi=150)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _figure(plan: Plan) -> Figure:
    """Draw where the bytes go, feature by feature, and what half or twice as many would change."""
    from matplotlib.figure import Figure

    places = np.arange(len(plan.features))
    given = np.array([plan.nbytes(slot) for slot in range(len(places))])
    full = [4 * plan.dim * feature.num_ids for feature in plan.features]
    figure = Figure(figsize=(8.4, 1.4 + 0.22 * len(places)), layout="constrained")
    size, change = figure.subplots(1, 2, sharey=True)
    size.barh(places, full, color="#d9d9d9", label="full")
    size.barh(places, given, color="#1f77b4", label="given")
    size.set_xscale("log")
    size.xaxis.set_major_formatter(lambda nbytes, _: format_bytes(nbytes))
    size.set_xlabel("serving bytes")
    size.set_yticks(places, [feature.name for feature in plan.features], fontsize=8)
    size.set_ylim(len(places) - 0.4, -0.6)
    half, twice = (_at(plan, share * given) for share in (0.5, 2.0))
    change.barh(places - 0.2, half, height=0.4, color="#d62728", label="with half the bytes")
    change.barh(places + 0.2, twice, height=0.4, color="#2ca02c", label="with twice as many")
    change.axvline(0, color="black", linewidth=0.8)
    change.set_xlabel("change of validation logloss, nats")
    change.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))
    for axes in (size, change):
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def _at(plan: Plan, nbytes: NDArray[np.float64]) -> list[float]:
    """Return what each feature's loss would change by with so many bytes [F], between the steps measured."""
    found = []
    for size, sizes, loss in zip(nbytes, plan.sizes, plan.loss, strict=True):
        rising = np.argsort(sizes, kind="stable")  # a few ids in full may take less than their codes
        found.append(float(np.interp(np.log(size), np.log(sizes[rising]), loss[rising])))
    return found
