"""From a raw file to the picture of AUC against bytes: full, hashed and unified tables on the same rows.

    make demo                                       makes a Criteo-format file with a planted signal first
    make demo DATA=train.txt                        takes yours
    make demo DATA=clicks.csv COLUMNS=columns.yaml  takes any table, by a description as in docs/data.md

The path is the one any real file takes: prep, train, compare. Everything lands in ``demo/``; run it again
and finished parts are not repeated.
"""

import argparse
import time
from pathlib import Path

from slimtab.config import load_config
from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.data.synthetic import write_criteo
from slimtab.errors import one_line_errors
from slimtab.reporting.compare import contenders, load_runs, markdown
from slimtab.reporting.pictures import write_pictures
from slimtab.run import train_run

ROWS = 200_000
LARGEST = 20_000  # ids of the largest feature: enough rows of each to learn from
EPOCHS = 8  # enough to see the order; the last bit of AUC takes longer
CONTENDERS = {"full": None, "hash": "10%", "unified": "10%"}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, default=None, help="raw file (default: make one)")
parser.add_argument("--columns", type=Path, default=None, help="its columns (YAML), unless it is Criteo's")
parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for all that is made")
args = parser.parse_args()
one_line_errors()
started = time.monotonic()

raw = args.data
if raw is None:
    raw = args.out / "synthetic.tsv"
    if not raw.exists():
        print(f"writing {ROWS:,} Criteo-format rows with a planted signal …")
        raw.parent.mkdir(parents=True, exist_ok=True)
        write_criteo(raw, ROWS, seed=0, ids=LARGEST)

dataset = args.out / "data" / raw.name.split(".")[0]
print(f"prep: {raw} → {dataset}")
prepare(raw, dataset, PrepOptions(kind="table" if args.columns else "criteo", columns=args.columns))

runs = []
for method, budget in CONTENDERS.items():
    run = args.out / "runs" / f"{dataset.name}-{method}"
    print(f"train: {method} at {budget or 'full size'} → {run}")
    settings = {"data": str(dataset), "run": str(run), "table.method": method, "table.budget": budget}
    train_run(load_config(None, settings | {"training.epochs": EPOCHS, "training.patience": 1}))
    runs.append(run)

rows = contenders(load_runs(runs))
picture, page = write_pictures(rows, args.out)
print(f"\n{markdown(rows)}\n")
print(f"plot of AUC against bytes: {picture}")
print(f"page to click through: {page}")
print(f"curves: .venv/bin/tensorboard --logdir {args.out / 'runs'}")
print(f"{time.monotonic() - started:.0f} s in all")
