"""A frozen folder is opened as what it is, and never becomes as large as it was in training."""

import subprocess
import sys

import pytest
import torch
from frozen_models import DIM, make_dataset, make_frozen

from slimtab.serving.card import read_card
from slimtab.serving.freeze import load_frozen
from slimtab.tables.base import in_last_stage, methods
from slimtab.tables.grouped import read_config
from slimtab.tables.rows.plain import PlainRows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("freeze") / "table")


@pytest.mark.parametrize("method", methods())
def test_opened_without_its_trained_shape(method, data, tmp_path):
    """From shapes alone, with constants and values from the files, as from a table built for real."""
    folder = make_frozen(data, method, tmp_path / "frozen")
    model, _ = load_frozen(folder)
    assert not any(tensor.is_meta for tensor in model.buffers())
    card, opened = read_card(folder), model.tables.table
    kind, config = read_config(card["method"], card["table_config"])
    built = in_last_stage(kind(config, model.tables.features, DIM, PlainRows, 0.0)).freeze().eval()
    built.load_state_dict(opened.state_dict())
    sizes = torch.tensor([feature.num_ids for feature in model.tables.features])
    slot = torch.arange(len(sizes)).repeat_interleave(sizes)
    ids = torch.cat([torch.arange(int(size)) for size in sizes])
    with torch.no_grad():
        assert torch.equal(opened(ids, slot), built(ids, slot))


SCRIPT = """
import sys
from pathlib import Path
from slimtab.serving.freeze import load_frozen
import slimtab.tables.base; slimtab.tables.base.methods()
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
before = peak()
{work}
print(peak() - before)
"""
OPEN = "load_frozen(Path(sys.argv[1]))"
EXPORT = "from slimtab.serving.export import export; export(Path(sys.argv[1]), 'pt2', Path(sys.argv[2]))"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("work", "most"), [(OPEN, 100), (EXPORT, 220)], ids=["open", "export"])
def test_memory_of_a_large_table(work, most, tmp_path):
    """300 MB of rows: opening maps them, exporting copies them from file to file. The rest is imports."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from slimtab.data.vocabulary import PARQUET_SCHEMA
    from slimtab.schema import Feature, RawFormat, Schema

    schema = Schema(RawFormat("table"), (), (Feature("item", 300 << 20 >> 5),))
    (tmp_path / "data" / "vocab").mkdir(parents=True)
    schema.save(tmp_path / "data" / "schema.json")
    none = pa.table([[""], [0], [0]], schema=PARQUET_SCHEMA)
    pq.write_table(none, tmp_path / "data" / "vocab" / "item.parquet")
    folder = make_frozen(tmp_path / "data", "full", tmp_path / "frozen", share="100%")
    assert json.loads((folder / "model.json").read_text())["serve_bytes"] == 300 << 20
    command = [sys.executable, "-c", SCRIPT.format(work=work), str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < most
