"""What the tests of prep share: raw rows in Criteo's format, reading datasets back, hashes of folders."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from slimtab.data.columns import CRITEO_NUMBERS, CRITEO_TOKENS

NAMES = ["label", *CRITEO_NUMBERS, *CRITEO_TOKENS]


def shared_data() -> Path:
    """The folder of real rows; skips the test where there is none."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SLIMTAB_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real rows at {folder}; set SLIMTAB_SHARED_DATA to their folder")
    return folder


def criteo_lines(rows: int, seed: int = 0, tokens: int = 50) -> list[str]:
    """Well-formed Criteo lines."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, rows).astype(str)
    numbers = rng.integers(-2, 500, (rows, 13)).astype(str)
    numbers[rng.random((rows, 13)) < 0.2] = ""
    cells = np.char.mod("%08x", (rng.zipf(1.3, (rows, 26)) % tokens) * 2654435761 % 2**32)
    cells[rng.random((rows, 26)) < 0.1] = ""
    return ["\t".join(row) for row in np.concatenate([label[:, None], numbers, cells], axis=1).tolist()]


def criteo_file(folder: Path, lines: list[str] | None = None, name: str = "train.txt") -> Path:
    """Write a raw file, of 1,000 rows unless lines are given."""
    path = folder / name
    path.write_text("\n".join(lines if lines is not None else criteo_lines(1000)) + "\n")
    return path


def raw_table(lines: list[str]) -> pa.Table:
    """The same rows as typed columns, by plain Python."""
    rows = [line.split("\t") for line in lines]
    columns: dict[str, pa.Array] = {}
    for place, name in enumerate(NAMES):
        cells = [row[place] for row in rows]
        number = place < 14
        columns[name] = pa.array([int(c) if c else None for c in cells] if number else cells)
    return pa.table(columns)


def read_split(folder: Path, split: str) -> pa.Table:
    """All rows of a split."""
    tables = [
        pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        for path in sorted((folder / split).glob("*.arrow"))
    ]
    return pa.concat_tables(tables).combine_chunks()


def read_all(folder: Path) -> pa.Table:
    """The rows of all splits, one after another."""
    return pa.concat_tables(
        [read_split(folder, split) for split in ("train", "valid", "test")]
    ).combine_chunks()


def digest(folder: Path) -> dict[str, str]:
    """A hash of every file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
