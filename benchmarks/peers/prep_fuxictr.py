"""FuxiCTR's `build_dataset` on Criteo rows: numeric columns scaled, tokens seen twice or more get an id.

The raw file is cut into train, valid and test CSV files with a header before the clock starts, as FuxiCTR
wants them. Usage: prep_fuxictr.py RAW OUT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from fuxictr.preprocess import FeatureProcessor
from fuxictr.preprocess.build_dataset import build_dataset, init_ray

NUMBERS = [f"I{i}" for i in range(1, 14)]
TOKENS = [f"C{i}" for i in range(1, 27)]


def cut(raw: Path, folder: Path) -> dict[str, str]:
    """Write train.csv, valid.csv and test.csv: 80, 10 and 10 % of the rows in order."""
    lines = raw.read_bytes().replace(b"\t", b",").splitlines(keepends=True)
    header = (",".join(["label", *NUMBERS, *TOKENS]) + "\n").encode()
    first, second = len(lines) * 8 // 10, len(lines) * 9 // 10
    folder.mkdir(parents=True)
    paths = {}
    for name, part in (("train", lines[:first]), ("valid", lines[first:second]), ("test", lines[second:])):
        path = folder / f"{name}.csv"
        path.write_bytes(header + b"".join(part))
        paths[f"{name}_data"] = str(path)
    return paths


def main() -> None:
    """Time build_dataset and print the seconds."""
    raw, out = Path(sys.argv[1]), Path(sys.argv[2])
    files = cut(raw, out / "csv")
    columns = [
        {"name": NUMBERS, "active": True, "dtype": "float", "type": "numeric", "normalizer": "MinMaxScaler"},
        {"name": TOKENS, "active": True, "dtype": "str", "type": "categorical"},
    ]
    label = {"name": "label", "dtype": "float"}
    processor = FeatureProcessor(columns, label, dataset_id="criteo", data_root=str(out))
    init_ray()  # its workers start off the clock
    start = time.perf_counter()
    build_dataset(processor, **files, min_categr_count=2)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
