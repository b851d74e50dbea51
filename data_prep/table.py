"""Any CSV, TSV or Parquet file → a dataset folder, by a short description of its columns.

cat > columns.yaml <<END
label: clicked
numeric: [price, age]
categorical: [city, device]
multi_hot: [tags]
list_separator: "|"
drop: [row_id]
END
python data_prep/table.py columns.yaml clicks.parquet data/clicks
"""

import argparse
from pathlib import Path

from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare

parser = argparse.ArgumentParser(description="Prepare a table.")
parser.add_argument("columns", type=Path, help="column description (YAML)")
parser.add_argument("source", type=Path, help="file, or folder of files")
parser.add_argument("out", type=Path, help="dataset folder to make")
parser.add_argument("--split", choices=["chronological", "random"], default="chronological")
args = parser.parse_args()

schema = prepare(args.source, args.out, PrepOptions("table", columns=args.columns, split=args.split))

print(f"{len(schema.numerics)} numeric columns, {len(schema.features)} features, rows: {schema.rows}")
