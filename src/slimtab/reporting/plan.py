"""A plan for people: a page that says why, and a picture of where the bytes go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
            " It is what `rq` chooses by itself: no other division of these bytes betters the validation "
            "logloss by more than two standard errors."
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
    """Draw a curve per feature: what its logloss changes by against its bytes, and the step it was given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for slot, (feature, loss) in enumerate(zip(plan.features, plan.loss, strict=True)):
        (line,) = axes.plot(plan.sizes(slot), loss, linewidth=0.8, alpha=0.6)
        dot = plan.nbytes(slot), loss[plan.steps[slot]]
        axes.plot(*dot, "o", color=line.get_color(), markersize=4)
        axes.annotate(feature.name, dot, xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1e-5)
    axes.xaxis.set_major_formatter(lambda nbytes, _: format_bytes(nbytes))
    axes.set_xlabel("serving bytes of the feature (dot: what it was given)")
    axes.set_ylabel("change of validation logloss, nats")
    axes.grid(alpha=0.3)
    return figure
