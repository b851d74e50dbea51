"""`slimtab export` as a shell sees it, and what it leaves where something goes wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from slimtab.cli import main
from slimtab.errors import SlimtabError
from slimtab.serving import load
from slimtab.serving.export import export
from slimtab.serving.formats import safetensors

sys.path.append(str(Path(__file__).resolve().parents[1] / "serving"))
from frozen_models import make_dataset, make_frozen, raw_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("export") / "table")


@pytest.fixture
def run(data, tmp_path):
    make_frozen(data, "rq", tmp_path / "run" / "frozen")
    return tmp_path / "run"


def test_card_says_what_it_is(run, capsys):
    assert main(["export", str(run), "--format", "pt2", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    folder = run / "export" / "pt2"
    assert card.items() >= json.loads((folder / "model.json").read_text()).items()
    assert (card["method"], card["format"], card["test"]["auc"]) == ("rq", "pt2", 0.5)
    assert card["schema_fingerprint"] == load(run / "frozen").schema.fingerprint()
    assert sum(card["bytes_by_structure"].values()) == card["serve_bytes"]
    assert card["export_versions"].keys() == {"slimtab", "python", "torch"}
    for name, nbytes in card["files"].items():
        assert (folder / name).stat().st_size == nbytes


@pytest.mark.parametrize("name", ["safetensors", "onnx"])
def test_the_file_of_tables_has_the_claimed_size(run, name, tmp_path):
    """Design §3. In the other formats program and network are in the same file."""
    pytest.importorskip("onnxscript")
    card = export(run / "frozen", name, tmp_path / name)
    on_disk = (tmp_path / name / "tables.safetensors").stat().st_size
    assert card["serve_bytes"] <= on_disk <= 1.02 * card["serve_bytes"] + 64 * 1024


def test_a_folder_of_ones_own_choice(run, tmp_path, data):
    out = tmp_path / "deep" / "model"
    assert main(["export", str(run), "--format", "safetensors", "-o", str(out)]) == 0
    want = load(run / "frozen").predict(raw_rows(data))
    (run / "frozen").rename(run / "elsewhere")  # it stands on its own
    assert np.array_equal(load(out).predict(raw_rows(data)), want)


def test_an_earlier_export_is_replaced_and_nothing_else_is(run, tmp_path, capsys):
    command = ["export", str(run), "--format", "safetensors", "-o", str(tmp_path / "out")]
    assert main(command) == main(command) == 0
    (tmp_path / "out" / "model.json").unlink()
    assert main(command) == 1
    assert "exists and is no export" in capsys.readouterr().err
    assert (tmp_path / "out" / "tables.safetensors").exists()


def test_an_export_that_fails_leaves_the_earlier_one(run, tmp_path, monkeypatch):
    """Also where the disk is full: the message is that of every command."""
    export(run / "frozen", "safetensors", tmp_path / "out")
    before = sorted((tmp_path / "out").rglob("*"))

    def full(program, frozen, out):
        (out / "tables.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "write", full)
    with pytest.raises(SlimtabError, match="is full"):
        export(run / "frozen", "safetensors", tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before
    assert not (tmp_path / "out.tmp").exists()
    load(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("onnx", "onnxscript", r"pip install 'slimtab\[onnx\]'"),
        ("onnx", "onnx_ir", r"pip install 'slimtab\[onnx\]'"),
    ],
)
def test_missing_package_is_named(run, name, missing, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SlimtabError, match=message):
        export(run / "frozen", name, tmp_path / "out")


def test_errors_are_one_line(run, tmp_path, capsys):
    assert main(["export", str(tmp_path), "--format", "pt2"]) == 1
    assert capsys.readouterr().err.startswith("slimtab: no frozen model at")
    with pytest.raises(SlimtabError, match="no format 'onx'; did you mean 'onnx'"):
        export(run / "frozen", "onx", tmp_path / "out")
