"""The sports interactions → a dataset folder with a multi-hot feature.

A user's last item is for testing, the one before for validation. Each interaction is joined by two items the
user never touched, drawn half by popularity and half uniformly, and every item brings its categories.

    python data_prep/sports.py ../shared/data/sports data/sports
"""

import argparse
from pathlib import Path

from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare

parser = argparse.ArgumentParser(description="Prepare the sports interactions.")
parser.add_argument("source", type=Path, help="folder with sports.txt.gz and item2attributes.json.gz")
parser.add_argument("out", type=Path, help="dataset folder to make")
parser.add_argument("--seed", type=int, default=0, help="of the negatives")
args = parser.parse_args()

schema = prepare(args.source, args.out, PrepOptions("sports", seed=args.seed))

for feature in schema.features:
    print(
        f"{feature.name:>10} {feature.num_ids:>7,} ids{', any number per row' if feature.multi_hot else ''}"
    )
