"""slimtab beside FuxiCTR, DeepCTR-Torch and TorchRec: same rows, split, ids, model, batch and stopping rule.

    python benchmarks/peers/run.py data/criteo -o peers

DATA is a dataset folder that `slimtab prep` made. Its rows are written out as NumPy arrays, which every
library's own interpreter reads. Each contender is tuned with as many tries (validation logloss of seed 0),
then trained for all seeds; test rows are scored once per run, all by the same code.
At the end their steps are timed in turns. Finished runs stay in OUT: stopped and started again, it goes on.
Quiet the machine before the timing; delete OUT/timing.json and run again to repeat only that.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from contenders import CONTENDERS, HERE, Contender, Peer, Setting
from report import Outcome, plot, report
from tqdm import tqdm

import rows as arrays
from interleave import Result, interleave
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.files import written
from slimtab.schema import SPLITS, Schema
from slimtab.training.metrics import score
from worker import peak_rss_mb


def export(data: Path, folder: Path) -> None:
    """Write a dataset's rows for the peers, in the order of its files."""
    schema = Schema.load(data / "schema.json")
    if schema.multi_hot or not schema.numerics:
        raise SlimtabError(
            f"{data} has multi-hot columns or no numeric ones, and the peers' models take neither; "
            "use Criteo rows"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        batches = list(Loader(data, split, 1 << 16, shuffle=False))
        parts = zip(*((b.ids.numpy(), b.dense.numpy(), b.label.numpy()) for b in batches), strict=True)
        arrays.write(folder, split, arrays.Rows(*map(np.concatenate, parts)))
    values = {"sizes": [feature.num_ids for feature in schema.features], "dense": len(schema.numerics)}
    write_json(folder / "columns.json", values)  # last: where it stands, the rows are complete


def write_json(path: Path, values: object) -> None:
    """Write a JSON file, whole or not at all."""
    with written(path) as beside:
        beside.write_text(json.dumps(values, indent=1), encoding="utf-8")


class Bench:
    """Runs of all contenders on one dataset, kept in a folder."""

    def __init__(self, data: Path, out: Path, jobs: int) -> None:
        self.data, self.out, self.jobs = data, out, jobs
        self.rows = out / "rows"

    def run(self, contender: Contender, setting: Setting, seed: int) -> dict:
        """Train one run, or read it where it is finished: its figures."""
        words = f"{contender.name} {setting.lr:g} {setting.decay:g} s{seed}"
        folder = self.out / "runs" / words.replace("%", "pct").replace(" ", "-")
        path = folder / "figures.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            peak = watch(contender.fit(self.data, self.rows, folder, setting, seed))
            figures = self._of_peer(folder) if isinstance(contender, Peer) else _of_slimtab(folder)
            write_json(path, {**figures, "peak_mb": peak})
        return json.loads(path.read_text(encoding="utf-8"))

    def _of_peer(self, folder: Path) -> dict:
        figures = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        for split in ("valid", "test"):
            label = arrays.read(self.rows, split).label.astype(np.float64)
            figures[split] = score(label, np.load(folder / f"{split}.npy", allow_pickle=False)).to_dict()
        return {**figures, "table_bytes": (folder / "tables.pt").stat().st_size}

    def all(self, jobs: list[tuple[Contender, Setting, int]]) -> list[dict]:
        """Run jobs and return their figures in order."""
        with ThreadPoolExecutor(self.jobs) as pool:
            done = pool.map(lambda job: self.run(*job), jobs)
            return list(tqdm(done, total=len(jobs), desc="runs", dynamic_ncols=True))

    def outcomes(self, seeds: int) -> list[Outcome]:
        """Tune every contender, then run all seeds with its best setting."""
        tried = [(c, setting, 0) for c in CONTENDERS for setting in c.tries]
        figures = dict(zip(tried, self.all(tried), strict=True))
        chosen = {
            c: min(c.tries, key=lambda s, c=c: figures[c, s, 0]["valid"]["logloss"]) for c in CONTENDERS
        }
        wanted = [(c, chosen[c], seed) for c in CONTENDERS for seed in range(seeds)]
        figures |= dict(zip(wanted, self.all(wanted), strict=True))
        return [
            Outcome(
                contender=c,
                tuned=chosen[c],
                runs=[figures[c, chosen[c], seed] for seed in range(seeds)],
                tries={setting: figures[c, setting, 0] for setting in c.tries},
            )
            for c in CONTENDERS
        ]

    def timing(self, chosen: dict[Contender, Setting], rounds: int) -> dict[str, Result]:
        """Time the tuned contenders in turns, or read what was timed."""
        path = self.out / "timing.json"
        if not path.exists():
            commands: dict[str, list[str]] = {}
            for contender, setting in chosen.items():
                commands |= contender.time(self.rows, setting)
            results = interleave(commands, rounds=rounds, steps=20)
            write_json(path, [dataclasses.asdict(result) for result in results.values()])
        values = json.loads(path.read_text(encoding="utf-8"))
        return {value["name"]: Result(**value) for value in values}


def _of_slimtab(folder: Path) -> dict:
    metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    return {
        **{key: metrics[key] for key in ("valid", "test", "epochs", "rows_per_second")},
        "label": f"slimtab {metrics['versions']['slimtab']}, torch {metrics['versions']['torch']}",
        "table_bytes": (folder / "run" / "frozen" / "tables.safetensors").stat().st_size,
    }


def watch(command: list[str]) -> float:
    """Run a command to its end; the most memory (MiB) it held."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    peak = 0.0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)
        while process.poll() is None:
            try:
                peak = max(peak, peak_rss_mb(process.pid))
            except StopIteration:  # it has ended but was not waited for yet: its memory is gone
                continue
            time.sleep(0.1)
        if process.returncode:
            log.seek(0)
            raise SlimtabError(f"{shlex.join(command)}\n{log.read()[-2000:]}")
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="dataset folder from slimtab prep, one-hot columns")
    parser.add_argument("-o", "--out", type=Path, required=True, help="runs, peers.md and peers.png")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--rounds", type=int, default=15, help="turns of the timing")
    options = parser.parse_args()
    if not all(contender.python.exists() for contender in CONTENDERS if isinstance(contender, Peer)):
        subprocess.run([str(HERE / "setup.sh")], check=True)
    bench = Bench(options.data, options.out, options.jobs)
    try:
        if not (bench.rows / "columns.json").exists():
            export(options.data, bench.rows)
        outcomes = bench.outcomes(options.seeds)
        timing = bench.timing({o.contender: o.tuned for o in outcomes}, options.rounds)
    except (SlimtabError, RuntimeError) as error:
        sys.exit(f"run.py: {error}")
    command = f"python benchmarks/peers/{shlex.join(['run.py', *sys.argv[1:]])}"
    text = report(outcomes, timing, Schema.load(options.data / "schema.json"), command)
    with written(options.out / "peers.md") as beside:
        beside.write_text(text, encoding="utf-8")
    plot(outcomes, timing, options.out / "peers.png")
    print(text)


if __name__ == "__main__":
    main()
