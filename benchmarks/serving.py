"""Exported models: latency by format and method, memory of exporting and of serving a large table.

    python benchmarks/serving.py latency runs/full runs/int8 …    runs on the same data, the float one first
    python benchmarks/serving.py memory                           tables of 1 GB and 268 MB, made up

Each writes its part of benchmarks/results/serving.md. Latency is that of encoded rows on one core; methods of
one format take turns in one process, and ratios to the first run are taken within a round. Memory is
the kernel's own count (VmRSS, VmHWM) of a process that does nothing else.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import worker

HERE = Path(__file__).resolve().parent
FORMATS = ("safetensors", "pt2", "aoti", "onnx")
BATCHES = (1, 64, 1024)
IDS, DIM = 1 << 24, 16


def exported(run: Path, name: str) -> Path:
    """The run's export, made where it is not there."""
    from slimtab.serving.export import export

    out = run / "export" / name
    if not (out / "model.json").exists():
        print(f"exporting {run} as {name}", file=sys.stderr)
        export(run / "frozen", name, out)
    return out


def latency(options: argparse.Namespace) -> None:
    """Time each format in a process of its own, so that none's threads disturb another's."""
    lines = []
    for name in options.formats:
        for run in options.runs:
            exported(run, name)
        command = [
            sys.executable,
            __file__,
            "turns",
            name,
            *map(str, options.runs),
            "--rounds",
            str(options.rounds),
        ]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for batch in BATCHES:
            first = np.array(found[0][str(batch)])
            for run, times in zip(options.runs, found, strict=True):
                own = np.array(times[str(batch)])  # [rounds, calls, wall and processor]
                ratios = np.median(own[..., 1], axis=1) / np.median(first[..., 1], axis=1)
                wall, processor = np.moveaxis(own.reshape(-1, 2) * 1000, 1, 0)
                lines.append(
                    f"| {name} | {json.loads((run / 'frozen/model.json').read_text())['method']} | {batch} "
                    f"| {np.percentile(wall, 50):.3f} | {np.percentile(wall, 99):.3f} "
                    f"| {np.percentile(processor, 50):.3f} | {np.percentile(processor, 99):.3f} "
                    f"| {1000 * batch / np.percentile(processor, 50):,.0f} | {np.median(ratios):.2f} "
                    f"| {ratios.min():.2f}–{ratios.max():.2f} |"
                )
    head = [
        "## Latency\n",
        f"{datetime.date.today()}, one of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end.",
        "`python benchmarks/serving.py latency …` on test rows of the runs' own data: time of",
        "`predict_encoded`, that is checks, program, sigmoid. Wall time includes what others took of the",
        "core; rows/s and ratios are of processor time.\n",
        "| format | method | batch | wall p50 ms | p99 | processor p50 ms | p99 | rows/s "
        "| p50 / full's, median | min–max |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    write("\n".join([*head, *lines]))


def turns(options: argparse.Namespace) -> None:
    """Print seconds per call by run, batch and round."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})  # ONNX Runtime takes a thread per core
    import torch

    from slimtab.data.loader import Loader
    from slimtab.serving import load

    torch.set_num_threads(1)
    predictors = [load(run / "export" / options.format) for run in options.runs]
    data = json.loads((options.runs[0] / "frozen" / "model.json").read_text())["data"]["path"]
    whole = next(iter(Loader(Path(data), "test", 8192, shuffle=False)))
    dense, ids = whole.dense.numpy(), whole.ids.numpy()
    found: list[dict[int, list[list[float]]]] = [{batch: [] for batch in BATCHES} for _ in predictors]
    for batch in BATCHES:
        calls = 400 if batch == 1 else 200 if batch == 64 else 50
        for _ in range(options.rounds):
            for predictor, times in zip(predictors, found, strict=True):
                seconds = []
                for call in range(calls + 10):
                    start = (call * 97) % (len(ids) - batch)
                    part = dense[start : start + batch], ids[start : start + batch]
                    began = time.perf_counter(), time.thread_time()
                    predictor.predict_encoded(*part)
                    seconds.append((time.perf_counter() - began[0], time.thread_time() - began[1]))
                times[batch].append(seconds[10:])  # caches are cold after the others' turns
    print(json.dumps(found))


def large(size: str, folder: Path) -> None:
    """Freeze a model whose one feature has 16.8 million ids (``small``: a hundred) and no vocabulary."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from slimtab.collection import TableCollection
    from slimtab.data.vocabulary import PARQUET_SCHEMA
    from slimtab.models.base import build_model
    from slimtab.schema import Feature, Numeric, RawFormat, Schema
    from slimtab.serving.freeze import freeze

    schema = Schema(
        RawFormat("table"), (Numeric("price"),), (Feature("item", 100 if size == "small" else IDS),)
    )
    (folder / "data" / "vocab").mkdir(parents=True)
    schema.save(folder / "data" / "schema.json")
    none = pa.table([[""], [0], [0]], schema=PARQUET_SCHEMA)
    pq.write_table(none, folder / "data" / "vocab" / "item.parquet")
    method = "full" if size == "small" else size
    tables = TableCollection.build(schema.features, DIM, method, init_std=0.1)
    model = build_model("deepfm", tables, 1, {"mlp": [16]}).eval()
    frozen = tables.freeze().eval()
    card = {"serve_bytes": frozen.table.serve_bytes(), "test": {"auc": 0.5}}
    freeze(model, frozen, folder / "data", folder / "frozen", card)


def rss_mb() -> float:
    """Resident memory now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def exporting(folder: Path, name: str) -> None:
    """Export in this process; print its memory after the imports, and its peak."""
    from slimtab.serving.export import export

    before = rss_mb()
    export(folder / "frozen", name, folder / name)
    print(json.dumps({"imports": before, "peak": worker.peak_rss_mb()}))


def serving(folder: Path, name: str) -> None:
    """Serve every id once; print memory after a model of next to no bytes, after loading, and at the end."""
    from slimtab.serving import load

    load(folder.parent / "small" / name).predict_encoded(
        np.zeros((64, 1), np.float32), np.zeros((64, 1), np.int64)
    )
    before = rss_mb()
    began = time.perf_counter()
    predictor = load(folder / name)
    predictor.predict_encoded(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int64))
    seconds, loaded = time.perf_counter() - began, rss_mb()
    for start in range(0, IDS, 1 << 14):
        ids = np.arange(start, start + (1 << 14))[:, None]
        predictor.predict_encoded(np.zeros((1 << 14, 1), np.float32), ids)
    print(json.dumps({"before": before, "loaded": loaded, "served": rss_mb(), "seconds": seconds}))


def memory(options: argparse.Namespace) -> None:
    """Measure each export and each server in a process of its own."""

    def child(*words: str) -> dict[str, float]:
        command = [sys.executable, __file__, *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}

    lines, work = [], options.work
    for method in ("small", "full", "int8"):
        folder = work / method
        if not (folder / "frozen" / "model.json").exists():
            child("large", method, str(folder))
        for name in options.formats:
            made = child("exporting", str(folder), name)
            if method == "small":
                continue
            served = child("serving", str(folder), name)
            card = json.loads((folder / name / "model.json").read_text())
            size = card["serve_bytes"] / 2**20
            files = sum(n for file, n in card["files"].items() if not file.startswith("encoder")) / 2**20
            growth = served["served"] - served["before"]
            figures = (size, files, made["peak"], made["peak"] - made["imports"])
            lines.append(
                f"| {name} | {method} | {' | '.join(f'{mib:,.0f}' for mib in figures)} "
                f"| {made['peak'] / size:.2f} | {served['seconds']:.1f} "
                f"| {served['loaded'] - served['before']:,.0f} | {growth:,.0f} | {growth / size:.2f} |"
            )
    head = [
        "## Memory\n",
        f"{datetime.date.today()}. `python benchmarks/serving.py memory`: one feature of {IDS:,} ids ×",
        f"{DIM}; MiB. Exporting: peak of the process, and what came after the imports. Serving: growth of a",
        "process that has run a small model of the same format, after loading, and once every id was asked",
        "for.\n",
        "| format | method | claim | files | export, peak | less imports | peak / claim | load s | loaded "
        "| served | served / claim |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    write("\n".join([*head, *lines]))


def write(text: str, page: str = "serving.md") -> None:
    """Put a part into a page of results, in the place of the one it had."""
    path = HERE / "results" / page
    old = path.read_text(encoding="utf-8") if path.exists() else "# Serving\n"
    title = text.splitlines()[0]
    kept = [piece for piece in old.split("\n## ") if not title.endswith(piece.splitlines()[0])]
    path.write_text("\n## ".join(kept).rstrip() + "\n\n" + text + "\n", encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    for name, run in (("latency", latency), ("turns", turns)):
        part = parts.add_parser(name)
        part.set_defaults(run=run)
        if name == "turns":
            part.add_argument("format")
        part.add_argument("runs", nargs="+", type=Path)
        part.add_argument("--rounds", type=int, default=9)
        part.add_argument("--formats", nargs="+", default=FORMATS)
    part = parts.add_parser("memory")
    part.set_defaults(run=memory)
    part.add_argument("--work", type=Path, default=Path("build/serving"), help="folder for the models")
    part.add_argument("--formats", nargs="+", default=FORMATS)
    for name in ("large", "exporting", "serving"):  # what a process of its own does
        part = parts.add_parser(name)
        part.add_argument("words", nargs=2)
    parts.choices["large"].set_defaults(run=lambda o: large(o.words[0], Path(o.words[1])))
    parts.choices["exporting"].set_defaults(run=lambda o: exporting(Path(o.words[0]), o.words[1]))
    parts.choices["serving"].set_defaults(run=lambda o: serving(Path(o.words[0]), o.words[1]))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
