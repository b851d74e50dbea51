"""Criteo click logs → a dataset folder.

Kaggle's ``train.txt`` and the Terabyte set's ``day_0`` … ``day_23`` have the same columns: a label, thirteen
counts, twenty-six hashed categories. Rows stay in time order, so the last tenth tests on the latest clicks.

    python data_prep/criteo.py train.txt data/criteo
    python data_prep/criteo.py terabyte/ data/terabyte --min-count 10
"""

import argparse
from pathlib import Path

from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare

parser = argparse.ArgumentParser(description="Prepare Criteo click logs.")
parser.add_argument("source", type=Path, help="train.txt, or a folder of day_* files; plain, .gz or .zst")
parser.add_argument("out", type=Path, help="dataset folder to make")
parser.add_argument(
    "--min-count", type=int, default=2, help="training rows a token needs for an id of its own"
)
args = parser.parse_args()

schema = prepare(args.source, args.out, PrepOptions("criteo", min_count=args.min_count))

for feature in schema.features:
    print(f"{feature.name:>4} {feature.num_ids:>10,} ids")
print(f"a full table at width 16 takes {schema.full_bytes(16) / 1e6:,.1f} MB")
