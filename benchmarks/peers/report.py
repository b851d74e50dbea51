"""The figures of run.py as Markdown and as a picture."""

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev

from contenders import BATCH, HERE, HIDDEN, Contender, Setting

import interleave
from interleave import Result
from slimtab.schema import Schema
from slimtab.sizes import format_bytes
from worker import DIM


@dataclass(frozen=True)
class Outcome:
    """What a contender did: the best setting, its run of each seed, and the run of each try (seed 0)."""

    contender: Contender
    tuned: Setting
    runs: list[dict]
    tries: dict[Setting, dict]


def report(outcomes: Sequence[Outcome], timing: dict[str, Result], schema: Schema, command: str) -> str:
    """All tables, and the published values."""
    rows = ", ".join(f"{count:,} {split}" for split, count in schema.rows.items())
    ids = sum(feature.num_ids for feature in schema.features)
    parts = [
        "# Side by side with other libraries\n",
        f"{datetime.date.today()}, {machine()}. `{command}`\n",
        f"DeepFM, width {DIM}, hidden layers {'–'.join(map(str, HIDDEN))}, ReLU, no dropout, Adam, batch "
        f"{BATCH:,}. Rows of `{schema.raw.kind}`: {rows}; {len(schema.features)} features with {ids:,} ids, "
        f"{len(schema.numerics)} numeric columns. All read the same encoded rows and are scored by the same "
        "code. After an epoch without a better validation logloss the best weights are taken back and the "
        "learning rate drops to a tenth; the third such epoch in a row ends a run. "
        "Test rows are scored once per run. Mean ± standard deviation over seeds.\n",
        "## Tuned\n",
        f"Each had {len(outcomes[0].tries)} tries on validation logloss of seed 0.\n",
        tuned_table(outcomes, timing),
        "\n`tables on disk` is the file of all parameters per id: `frozen/tables.safetensors` of slimtab; "
        "for the others `torch.save` of their embedding tables, first-order weights included where they are "
        "tables of their own. `rows/s` is the median of the timing below, of both stages where there are "
        "two. `peak` is the most memory that the training process held from start to end, its libraries and "
        "rows included.\n",
        "## Tries\n",
        "Seed 0. The first setting is the library's own, validation chose the bold one. Decay "
        "is per epoch in slimtab, L2 on the mean loss in FuxiCTR and TorchRec, L2 on the summed loss in "
        "DeepCTR-Torch.\n",
        tries_table(outcomes),
        "\n## Time of a step\n",
        "Tuned settings, two threads, batches made before the clock starts. Contenders take turns inside one "
        "run; ratios are taken within a round. `peak` there is of a process that only trains.\n",
        interleave.markdown(timing, outcomes[0].contender.name, BATCH),
        "\n" + (HERE / "published.md").read_text(encoding="utf-8"),
    ]
    return "\n".join(parts)


def tuned_table(outcomes: Sequence[Outcome], timing: dict[str, Result]) -> str:
    """One line per contender: quality, bytes, speed and memory."""
    first = outcomes[0].runs[0]["table_bytes"]
    reference = timing[outcomes[0].contender.name]
    lines = [
        f"| contender | test AUC | test logloss | tables on disk | of {reference.name} | rows/s "
        f"| time / {reference.name} | peak MiB | tuned to | seeds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|--:|",
    ]
    for outcome in outcomes:
        stages = [result for name, result in timing.items() if name.startswith(outcome.contender.name)]
        size = outcome.runs[0]["table_bytes"]
        cells = [
            outcome.contender.name,
            spread(outcome.runs, "auc"),
            spread(outcome.runs, "logloss"),
            format_bytes(size),
            f"{size / first:.1%}",
            " / ".join(f"{1000 * BATCH / median(stage.step_ms):,.0f}" for stage in stages),
            " / ".join(f"{median(stage.ratios(reference)):.2f}" for stage in stages),
            f"{max(run['peak_mb'] for run in outcome.runs):,.0f}",
            str(outcome.tuned),
            str(len(outcome.runs)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tries_table(outcomes: Sequence[Outcome]) -> str:
    """One line per try."""
    lines = ["| contender | setting | valid logloss | test AUC | epochs |", "|---|---|--:|--:|--:|"]
    for outcome in outcomes:
        for setting, run in outcome.tries.items():
            name = f"**{setting}**" if setting == outcome.tuned else str(setting)
            cells = [outcome.contender.name, name, f"{run['valid']['logloss']:.4f}"]
            cells += [f"{run['test']['auc']:.4f}", f"{run['epochs']:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(runs: Sequence[dict], figure: str) -> str:
    """Mean of a test figure over runs, with the standard deviation where there are several."""
    values = [run["test"][figure] for run in runs]
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def machine() -> str:
    """The processor and its cores, and the machine's memory."""
    model = "processor unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{os.cpu_count()} cores ({model}), {memory / 2**30:.0f} GiB, no GPU used"


def plot(outcomes: Sequence[Outcome], timing: dict[str, Result], path: Path) -> None:
    """Draw test AUC, bytes and speed side by side, a bar per contender, and write a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from slimtab.files import written

    names = [outcome.contender.name for outcome in outcomes]
    colours = ["#0072B2" if name.startswith("slimtab") else "#999999" for name in names]
    aucs = [[run["test"]["auc"] for run in outcome.runs] for outcome in outcomes]
    figure, (quality, size, speed) = pyplot.subplots(
        1, 3, figsize=(12, 3.4), layout="constrained", sharey=True
    )
    means = [mean(values) for values in aucs]
    errors = [stdev(values) if len(values) > 1 else 0.0 for values in aucs]
    for place, (middle, error, colour) in enumerate(zip(means, errors, colours, strict=True)):
        quality.errorbar(middle, place, xerr=error, fmt="o", color=colour, capsize=3)
    quality.set_title("test AUC (mean ± standard deviation)")
    nbytes = [outcome.runs[0]["table_bytes"] for outcome in outcomes]
    bars = size.barh(names, [value / 1e6 for value in nbytes], color=colours)
    size.bar_label(bars, [format_bytes(value) for value in nbytes], padding=3)
    size.set_title("tables on disk, MB")
    rates = [BATCH / median(timing[name].step_ms) for name in names]
    bars = speed.barh(names, rates, color=colours)
    speed.bar_label(bars, [f"{rate:.1f}" for rate in rates], padding=3)
    speed.set_title("thousand training rows per second")
    quality.set_yticks(range(len(names)), names)
    quality.invert_yaxis()
    for axes in (size, speed):
        axes.margins(x=0.2)
    for axes in (quality, size, speed):
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    with written(path) as beside:
        figure.savefig(beside, dpi=150, format="png")
    pyplot.close(figure)
