"""Avazu's ``train.csv`` → a dataset folder.

Every column is categorical. The row id goes; the hour (YYMMDDHH), which never comes again, becomes the hour
of the day and the day of the week.

    python data_prep/avazu.py train.csv data/avazu
"""

import argparse
from pathlib import Path

from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare

parser = argparse.ArgumentParser(description="Prepare Avazu clicks.")
parser.add_argument("source", type=Path, help="train.csv; plain, .gz or .zst")
parser.add_argument("out", type=Path, help="dataset folder to make")
args = parser.parse_args()

schema = prepare(args.source, args.out, PrepOptions("avazu"))

for name, rows in schema.rows.items():
    print(f"{name:>5} {rows:>12,} rows")
