"""Train a click model with small embedding tables on Criteo-format rows.

    python examples/criteo_train.py --data train.txt --method unified --budget 10% --model deepfm

``--data`` is a raw file (tsv, .gz, .zst, Parquet, or a folder of ``day_*`` files) or a folder that
`slimtab prep` made. Run the same command again after a stop, and it goes on where it was.
"""

import argparse
from pathlib import Path

from slimtab.cli.render import leads, table
from slimtab.config import load_config
from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.errors import one_line_errors
from slimtab.run import train_run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, required=True, help="raw file, or prepared folder")
parser.add_argument("--method", default="unified", help="full, hash, unified (`slimtab methods` lists all)")
parser.add_argument(
    "--budget", default=None, help="serving bytes of the tables: 10%% of the full ones, or 4MB"
)
parser.add_argument("--model", default="deepfm", help="deepfm, dlrm or dcn")
parser.add_argument("--run", default=None, help="run folder (default: runs/MODEL-METHOD-BUDGET)")
parser.add_argument("settings", nargs="*", help="any other setting, such as optimizer.lr=0.0005")
args = parser.parse_args()
one_line_errors()

# 1. Raw rows become columns on disk: numbers transformed, tokens numbered. Done once, reused after.
dataset = args.data
if not (dataset / "schema.json").exists():
    dataset = Path("data") / args.data.name.split(".")[0]
    prepare(args.data, dataset, PrepOptions(kind="criteo"))

# 2. One config says the rest: which model, which tables, how many bytes. The run folder keeps it.
config = load_config(
    None,
    {
        "data": str(dataset),
        "run": args.run or f"runs/{args.model}-{args.method}-{(args.budget or 'full').replace('%', 'pct')}",
        "model.name": args.model,
        "table.method": args.method,
        "table.budget": args.budget,
    },
    args.settings,
)

# 3. Train, stop on validation logloss, score the test rows once, freeze the tables to a file of that size.
metrics = train_run(config)
if leads():  # of several ranks, one
    print(table([metrics]))
    print(f"frozen: {config.run}/frozen   curves: tensorboard --logdir {config.run}")
