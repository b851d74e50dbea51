"""What shrinking a trained model costs: test AUC less that of the very model, and the speed of a large table.

    python benchmarks/shrink.py quality --data data/sports runs/full-0 runs/full-1 runs/full-2
    python benchmarks/shrink.py speed

``quality`` takes finished runs of method full and prints a Markdown table: mean and standard deviation over
them. ``speed`` shrinks a table of random numbers, in a process of its own and on one
thread for each method; processor time, because other work on a machine would count in any other.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev

# method, budget, minutes of fine-tuning, at most so much of the full tables, the AUC that may be lost
GOALS = [
    ("int8", None, 0, None, 0.0003),
    ("int4", None, 0, 0.19, 0.0007),
    ("int2", None, 0, 0.125, 0.005),
    ("rq", "8.1%", 0, 0.081, 0.0005),
    ("rq", "4.1%", 0, 0.041, 0.003),
    ("rq", "2.1%", 0, 0.021, 0.009),
    ("rq", "2.1%", 2, 0.021, 0.009),
    ("mixed", "10%", 0, None, None),
    ("rq", "10%", 0, None, None),
    ("pq", "10%", 0, None, None),
    ("binary", "10%", 0, None, None),
    ("mixed", "4%", 0, None, None),
    ("rq", "4%", 0, None, None),
    ("pq", "4%", 0, None, None),
    ("binary", "4%", 0, None, None),
    ("mixed", "2.1%", 0, None, None),
    ("dedup", "10%", 0, None, None),
    ("tt", "10%", 0, None, None),
    ("prune", "10%", 0, None, None),
]


def quality(data, runs):
    from slimtab.shrinking.job import Job

    print("| method | budget | fine-tuned | of full | test AUC | may lose | valid AUC | divergence won |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for method, budget, minutes, _, goal in GOALS:
        found = []
        for run in runs:
            with tempfile.TemporaryDirectory() as folder:
                job = Job(
                    run,
                    Path(folder) / "out",
                    None if method == "mixed" else method,
                    budget,
                    data,
                    finetune=minutes,
                    mixed=method == "mixed",
                )
                found.append(job.run())
        test, valid = (_lost(found, split) for split in ("test", "valid"))
        share = found[0]["serve_bytes"] / found[0]["full_bytes"]
        won = ""
        if method == "mixed":
            won = ", ".join(f"{f['mixed']['gain']:.5f} ± {f['mixed']['gain_error']:.5f}" for f in found)
        cells = [method, budget or "", f"{minutes} min" if minutes else "", f"{share:.2%}", test]
        print("|", " | ".join([*cells, f"−{goal}" if goal else "", valid, won]), "|", flush=True)


def _lost(found, split):
    gaps = [figures["after"][split]["auc"] - figures["before"][split]["auc"] for figures in found]
    spread = f" ± {stdev(gaps):.5f}" if len(gaps) > 1 else ""
    return f"{mean(gaps):+.5f}{spread}".replace("-", "−")


def speed(rows, dim):
    print(f"{rows:,} rows of {dim} floats")
    print("Million rows per processor second; by the clock with report and file; peak memory over input.")
    print("| method | seconds | million rows/s | all, by the clock | peak | without Python and torch |")
    print("|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.safetensors"
        command = [sys.executable, __file__, "speed-of"]
        subprocess.run([*command, "write", str(path), str(rows), str(dim)], check=True)
        for method in ("int8", "int4", "int2", "rq"):
            done = subprocess.run(
                [*command, method, str(path), str(rows), str(dim)],
                capture_output=True,
                text=True,
                check=True,
            )
            took, whole, peak, bare = json.loads(done.stdout)
            size = 4 * rows * dim
            cells = [method, f"{took:.1f}", f"{rows / took / 1e6:.2f}", f"{rows / whole / 1e6:.2f}"]
            print("|", " | ".join([*cells, f"{peak / size:.2f}", f"{(peak - bare) / size:.2f}"]), "|")


def speed_of(method, path, rows, dim):
    import torch

    from slimtab.shrinking.artefact import save_shrunk
    from slimtab.shrinking.checkpoint import find_tables, read_checkpoint
    from slimtab.shrinking.methods import get_method
    from slimtab.shrinking.shrink import gather, shrink
    from slimtab.training.checkpoint import write_tensors
    from slimtab.training.peak import peak_memory

    if method == "write":
        write_tensors(path, {"user.weight": torch.randn(rows, dim) * 0.05}, {})
        return
    torch.set_num_threads(1)
    bare = peak_memory()
    tables = find_tables(read_checkpoint(path))
    budget = None if get_method(method).sized else "8%"
    started = time.perf_counter()
    shrunk = shrink(tables, method, budget)
    save_shrunk(shrunk, path.with_name("out"), {})
    whole, peak = time.perf_counter() - started, peak_memory()
    (vectors,) = gather(tables, None)
    started = time.process_time()
    get_method(method).fit(vectors, vectors.full_bytes * 8 // 100, 0, lambda rows: None)
    print(json.dumps([time.process_time() - started, whole, peak, bare]))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    of_quality = commands.add_parser("quality")
    of_quality.add_argument("--data", type=Path, required=True)
    of_quality.add_argument("runs", nargs="+", type=Path)
    of_speed = commands.add_parser("speed")
    of_speed.add_argument("--rows", type=int, default=10_000_000)
    of_speed.add_argument("--dim", type=int, default=16)
    one = commands.add_parser("speed-of")
    one.add_argument("method")
    one.add_argument("path", type=Path)
    one.add_argument("rows", type=int)
    one.add_argument("dim", type=int)
    args = parser.parse_args()
    if args.command == "quality":
        quality(args.data, args.runs)
    elif args.command == "speed":
        speed(args.rows, args.dim)
    else:
        speed_of(args.method, args.path, args.rows, args.dim)


if __name__ == "__main__":
    main()
