"""Fixtures that more than one test module uses. Each xdist worker makes its own, in its own folder."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from slimtab.schema import Schema


@dataclass(frozen=True)
class Prepared:
    """A small Criteo-format file and the dataset made of it."""

    raw: Path
    data: Path
    schema: Schema


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Several workers on few cores: torch's own threads would only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Prepared:
    """4000 synthetic rows through the real prep: 3200 to train on, 400 each to validate and to test."""
    from slimtab.data.prepare import PrepOptions, prepare
    from slimtab.data.synthetic import write_criteo

    folder = tmp_path_factory.mktemp("prepared")
    write_criteo(folder / "raw.tsv", 4000, seed=1, ids=500, signal=2.0)
    schema = prepare(folder / "raw.tsv", folder / "data", PrepOptions("criteo"), progress=False)
    return Prepared(folder / "raw.tsv", folder / "data", schema)
