"""Prepared rows as NumPy arrays, which every peer's interpreter can read: same rows, split and ids for all.

    FOLDER/columns.json        {"sizes": [number of ids of each feature], "dense": number of numeric columns}
    FOLDER/<split>-ids.npy     [N, F] int64
    FOLDER/<split>-dense.npy   [N, I] float32
    FOLDER/<split>-label.npy   [N] float32

peers/run.py writes them from a dataset folder with slimtab's own loader. Needs nothing but NumPy.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Rows of a split, or of a batch: ids [N, F] int64, dense [N, I] float32, label [N] float32."""

    ids: np.ndarray
    dense: np.ndarray
    label: np.ndarray

    def take(self, picked) -> "Rows":
        """The rows at `picked`."""
        return Rows(self.ids[picked], self.dense[picked], self.label[picked])


def write(folder: Path, split: str, rows: Rows) -> None:
    """Write one split."""
    for name, array in rows._asdict().items():
        np.save(folder / f"{split}-{name}.npy", array, allow_pickle=False)


def read(folder: Path, split: str) -> Rows:
    """Read one split."""
    return Rows(*(np.load(folder / f"{split}-{name}.npy", allow_pickle=False) for name in Rows._fields))


def columns(folder: Path) -> tuple[list[int], int]:
    """Number of ids of each feature, and number of numeric columns."""
    values = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    return values["sizes"], values["dense"]


def shuffled(rows: Rows, batch: int, seed: int) -> list[Rows]:
    """All rows once, in batches, in an order of the seed's; the last batch may be smaller."""
    order = np.random.default_rng(seed).permutation(len(rows.label))
    return [rows.take(order[start : start + batch]) for start in range(0, len(order), batch)]
