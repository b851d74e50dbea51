"""Search rows and widths with OptEmbed from Python: supernet, evolution, retraining, a frozen file.

    python examples/search_dims.py --data train.txt --budget 10%

Run the same command again after a stop, and it goes on where it was.
"""

import argparse
from pathlib import Path

from slimtab.cli.render import table
from slimtab.config import load_config
from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.errors import one_line_errors
from slimtab.searching import SearchSettings, search_run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, required=True, help="raw Criteo file, or prepared folder")
parser.add_argument("--budget", default=None, help="serving bytes; without, the smallest that loses nothing")
parser.add_argument("--run", default="runs/search", help="run folder")
args = parser.parse_args()
one_line_errors()

dataset = args.data
if not (dataset / "schema.json").exists():
    dataset = Path("data") / args.data.name.split(".")[0]
    prepare(args.data, dataset, PrepOptions(kind="criteo"))

values = {"data": str(dataset), "run": args.run, "table.method": "optembed", "table.budget": args.budget}
metrics = search_run(load_config(None, values), SearchSettings(generations=30, population=20))
print(table([metrics]))
print(f"the whole front: {args.run}/search/front.csv, front.png   frozen: {args.run}/frozen")
