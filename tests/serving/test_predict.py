"""A frozen run scores raw rows as the trained model did, and says which rows it could not read."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from slimtab.config import load_config
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.run import train_run
from slimtab.serving.freeze import load_frozen
from slimtab.serving.predict import evaluate_raw, predict_raw, to_batches

METHODS = [("full", None), ("hash", "20%"), ("unified", "20%")]


@pytest.fixture(scope="module", params=METHODS, ids=lambda p: p[0])
def run(request, prepared, tmp_path_factory) -> Path:
    method, budget = request.param
    folder = tmp_path_factory.mktemp("run") / method
    settings = {
        "data": str(prepared.data),
        "run": str(folder),
        "table.method": method,
        "table.budget": budget,
        "table.dim": 8,
        "model.options": {"mlp": [16]},
        "training.batch_size": 512,
        "training.epochs": 2,
    }
    train_run(load_config(None, settings))
    return folder


def raw_test_rows(prepared) -> list[str]:
    return prepared.raw.read_text().splitlines(keepends=True)[3600:]


def test_evaluating_the_raw_test_rows_gives_the_metrics_of_the_run(run, prepared, tmp_path) -> None:
    """The encoder is the one prep used and the frozen tables are the trained ones, so nothing may differ."""
    raw = tmp_path / "test.tsv"
    raw.write_text("".join(raw_test_rows(prepared)))
    metrics, rejects = evaluate_raw(run / "frozen", raw)
    trained = json.loads((run / "metrics.json").read_text())["test"]
    assert not rejects
    assert metrics.rows == trained["rows"] == 400
    assert metrics.auc == pytest.approx(trained["auc"], abs=1e-6)
    assert metrics.logloss == pytest.approx(trained["logloss"], abs=1e-6)


def test_predictions_stand_in_the_order_of_the_file(run, prepared, tmp_path) -> None:
    lines = raw_test_rows(prepared)
    raw = tmp_path / "test.tsv.gz"
    raw.write_bytes(gzip.compress("".join(lines).encode()))
    predict_raw(run / "frozen", raw, tmp_path / "out.parquet")
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out["row"].to_list() == list(range(1, 401))
    labels = np.array([int(line[0]) for line in lines])
    metrics, _ = evaluate_raw(run / "frozen", raw)
    assert roc_auc_score(labels, out["probability"]) == pytest.approx(metrics.auc, abs=1e-9)


def test_a_malformed_row_has_no_probability_and_moves_no_other(run, prepared, tmp_path) -> None:
    lines = raw_test_rows(prepared)[:50]
    whole, broken = tmp_path / "whole.tsv", tmp_path / "broken.tsv"
    whole.write_text("".join(lines))
    broken.write_text("".join([*lines[:20], "1\tnot\tenough\n", *lines[20:]]))
    predict_raw(run / "frozen", whole, tmp_path / "whole.parquet")
    rows, rejects = predict_raw(run / "frozen", broken, tmp_path / "broken.parquet")
    assert rows == 51
    assert [reject.line for reject in rejects] == [21]
    expected = pl.read_parquet(tmp_path / "whole.parquet")["probability"].to_list()
    got = pl.read_parquet(tmp_path / "broken.parquet")["probability"].to_list()
    assert got == [*expected[:20], None, *expected[20:]]


def test_rows_without_a_label_can_be_predicted_but_not_evaluated(run, prepared, tmp_path) -> None:
    lines = [line.split("\t", 1)[1] for line in raw_test_rows(prepared)[:30]]
    raw = tmp_path / "unlabelled.tsv"
    raw.write_text("".join(lines))
    rows, rejects = predict_raw(run / "frozen", raw, tmp_path / "out.parquet")
    assert (rows, rejects) == (30, [])
    with pytest.raises(SlimtabError):
        evaluate_raw(run / "frozen", raw)


def test_unknown_tokens_are_out_of_vocabulary_not_errors(run, prepared, tmp_path) -> None:
    cells = raw_test_rows(prepared)[0].rstrip("\n").split("\t")
    raw = tmp_path / "new.tsv"
    raw.write_text("\t".join([*cells[:14], *["ffffffff"] * 26]) + "\n")
    rows, rejects = predict_raw(run / "frozen", raw, tmp_path / "out.parquet")
    assert (rows, rejects) == (1, [])


def test_the_file_of_tables_has_the_claimed_size(run) -> None:
    claimed = json.loads((run / "metrics.json").read_text())["serve_bytes"]
    on_disk = (run / "frozen" / "tables.safetensors").stat().st_size
    assert claimed <= on_disk <= 1.02 * claimed + 64 * 1024


def test_a_damaged_frozen_folder_is_named(run, tmp_path) -> None:
    with pytest.raises(SlimtabError, match="no frozen model"):
        load_frozen(tmp_path)


def test_encoded_rows_become_the_batches_the_loader_makes(prepared) -> None:
    """Serving and training must see the same tensors."""
    import pyarrow as pa

    loaded = next(iter(Loader(prepared.data, "test", 400, shuffle=False)))
    shard = next((prepared.data / "test").glob("*.arrow"))
    (served,) = to_batches(pa.ipc.open_file(shard).read_all(), prepared.schema)
    assert served.keys == loaded.keys
    for name in ("dense", "ids", "label"):
        assert torch.equal(getattr(served, name), getattr(loaded, name))
