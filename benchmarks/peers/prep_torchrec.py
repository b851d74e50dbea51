"""TorchRec's `BinaryCriteoUtils` on Criteo rows: tsv_to_npys, then sparse_to_contiguous.

It makes no splits and counts over all rows. Usage: prep_torchrec.py RAW OUT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from torchrec.datasets.criteo import BinaryCriteoUtils


def main() -> None:
    """Time both steps and print the seconds."""
    raw, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True)
    dense, sparse, labels = (str(out / f"{name}.npy") for name in ("dense", "sparse", "labels"))
    start = time.perf_counter()
    BinaryCriteoUtils.tsv_to_npys(str(raw), dense, sparse, labels, dataset_name="criteo_kaggle")
    BinaryCriteoUtils.sparse_to_contiguous([sparse], str(out), frequency_threshold=2)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
