"""Prep from raw files to datasets, against plain-Python references and the encoder that serves."""

from __future__ import annotations

import ast
import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
import pytest
import zstandard
from prep_helpers import (
    NAMES,
    criteo_file,
    criteo_lines,
    digest,
    raw_table,
    read_all,
    read_split,
    shared_data,
)

from slimtab.data import prepare as prepare_module
from slimtab.data import shards
from slimtab.data.encode import Encoder
from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.data.readers import read_raw
from slimtab.errors import SlimtabError
from slimtab.schema import Schema


def test_real_criteo_rows_equal_a_plain_polars_reference(tmp_path: Path) -> None:
    raw = shared_data() / "criteo" / "train_117k.tsv.gz"
    schema = prepare(raw, tmp_path / "out", PrepOptions("criteo"), progress=False)
    assert schema.rows == {"train": 94_038, "valid": 11_755, "test": 11_755}
    kinds = {name: pl.Int64 if place < 14 else pl.String for place, name in enumerate(NAMES)}
    frame = pl.read_csv(raw, separator="\t", has_header=False, new_columns=NAMES, schema_overrides=kinds)
    training, found = frame[:94_038], read_all(tmp_path / "out")
    assert found["label"].to_numpy().tolist() == frame["label"].to_list()
    for feature in schema.features:
        counts = training[feature.name].fill_null("").value_counts().filter(pl.col("count") >= 2)
        order = counts.sort(["count", feature.name], descending=[True, False])[feature.name].to_list()
        id_of = {token: number for number, token in enumerate(order, start=1)}
        assert feature.num_ids == len(order) + 1
        expected = [id_of.get(token, 0) for token in frame[feature.name].fill_null("").to_list()]
        assert found[feature.name].to_pylist() == expected, feature.name
    for numeric in schema.numerics:
        expected = np.log1p(np.maximum(frame[numeric.name].fill_null(0).to_numpy(), 0))
        np.testing.assert_allclose(found[numeric.name].to_numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("numeric", ["log1p", "bucket", "standard"])
@pytest.mark.parametrize("ids", ["vocab", "hash"])
@pytest.mark.parametrize("split", ["chronological", "random"])
def test_serving_encodes_as_prep_did(tmp_path: Path, numeric: str, ids: str, split: str) -> None:
    raw = criteo_file(tmp_path)
    options = PrepOptions("criteo", numeric=numeric, ids=ids, split=split, seed=3)  # type: ignore[arg-type]
    schema = prepare(raw, tmp_path / "out", options, progress=False)
    Encoder.load(tmp_path / "out").save(tmp_path / "encoder")
    encoder = Encoder.load(tmp_path / "encoder")
    encoded = pa.concat_tables(encoder.encode(part.table) for part in read_raw(raw, schema)).combine_chunks()
    kept = sorted(read_all(tmp_path / "out").to_pylist(), key=repr)
    assert kept == sorted(encoded.to_pylist(), key=repr)
    if split == "chronological":
        assert read_all(tmp_path / "out").equals(encoded)
    assert encoder.encode(raw_table(criteo_lines(1000))).combine_chunks().equals(encoded)
    assert encoder.encode(pl.from_arrow(raw_table(criteo_lines(1000)))).combine_chunks().equals(encoded)
    assert encoder.schema.fingerprint() == schema.fingerprint()


def test_all_fits_see_training_rows_only(tmp_path: Path) -> None:
    lines = criteo_lines(1000)
    other = criteo_lines(1000, seed=9, tokens=500)
    first = criteo_file(tmp_path, lines, "a.txt")
    second = criteo_file(tmp_path, lines[:800] + other[800:], "b.txt")
    options = PrepOptions("criteo", numeric="standard")
    schemas = [prepare(raw, tmp_path / raw.stem, options, progress=False) for raw in (first, second)]
    assert schemas[0].fingerprint() == schemas[1].fingerprint()
    assert digest(tmp_path / "a" / "vocab") == digest(tmp_path / "b" / "vocab")


def test_random_split_is_seeded_and_keeps_the_order(tmp_path: Path) -> None:
    lines = criteo_lines(2000)
    for row, line in enumerate(lines):
        cells = line.split("\t")
        cells[1] = str(row)
        lines[row] = "\t".join(cells)
    raw = criteo_file(tmp_path, lines)
    places = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(number)
        schema = prepare(raw, out, PrepOptions("criteo", split="random", seed=seed), progress=False)
        assert abs(schema.rows["train"] - 1600) < 80
        row = np.rint(np.expm1(read_split(out, "train")["I1"].to_numpy().astype(float)))
        assert (np.diff(row) > 0).all()
        places.append(row.tolist())
    assert places[0] == places[1] != places[2]


def test_small_pieces_give_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = criteo_file(tmp_path, criteo_lines(3000, tokens=3000))
    prepare(raw, tmp_path / "whole", PrepOptions("criteo"), progress=False)
    monkeypatch.setattr(prepare_module, "BLOCK_BYTES", 50_000)
    monkeypatch.setattr(prepare_module, "_TOKEN_COST", 200_000)
    prepare(raw, tmp_path / "pieces", PrepOptions("criteo", max_memory="256MB"), progress=False)
    assert digest(tmp_path / "whole") == digest(tmp_path / "pieces")


def test_threads_parse_no_literals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.11.8 `ast` fails in threads now and then; numpy reads headers of .npy files by it."""

    def fails(text: str) -> None:
        raise SystemError("AST constructor recursion depth mismatch")

    monkeypatch.setattr(ast, "literal_eval", fails)
    prepare(criteo_file(tmp_path), tmp_path / "out", PrepOptions("criteo"), progress=False)
    assert (tmp_path / "out" / "manifest.json").exists()


def test_shards_and_record_batches_are_cut_at_fixed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 300)
    monkeypatch.setattr(shards, "BATCH_ROWS", 128)
    prepare(criteo_file(tmp_path), tmp_path / "out", PrepOptions("criteo"), progress=False)
    rows = []
    for path in sorted((tmp_path / "out" / "train").iterdir()):
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        rows.append([file.get_batch(number).num_rows for number in range(file.num_record_batches)])
    assert rows == [[128, 128, 44], [128, 128, 44], [128, 72]]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["files"]["train/part-00002.arrow"]["rows"] == 200


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".parquet"])
def test_every_container_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    lines = criteo_lines(500)
    plain = criteo_file(tmp_path, lines)
    prepare(plain, tmp_path / "plain", PrepOptions("criteo"), progress=False)
    path = tmp_path / f"rows.tsv{suffix}"
    if suffix == ".parquet":
        pq.write_table(raw_table(lines), path)
    else:
        pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
        path.write_bytes(pack(plain.read_bytes()))
    prepare(path, tmp_path / "out", PrepOptions("criteo"), progress=False)
    assert read_all(tmp_path / "out").equals(read_all(tmp_path / "plain"))


def test_terabyte_days_are_read_in_natural_order(tmp_path: Path) -> None:
    days = tmp_path / "days"
    days.mkdir()
    lines = criteo_lines(300)
    for day, part in ((0, lines[:100]), (2, lines[100:200]), (10, lines[200:])):
        criteo_file(days, part, f"day_{day}")
    (days / "README").write_text("not rows")
    schema = prepare(days, tmp_path / "days_out", PrepOptions("criteo"), progress=False)
    assert schema.sources == ("day_0", "day_2", "day_10")
    prepare(criteo_file(tmp_path, lines), tmp_path / "one_out", PrepOptions("criteo"), progress=False)
    assert read_all(tmp_path / "days_out").equals(read_all(tmp_path / "one_out"))


def test_quotes_line_ends_and_blank_lines(tmp_path: Path) -> None:
    lines = criteo_lines(100)
    lines[3] = lines[3].rsplit("\t", 1)[0] + '\t"quoted'
    lines[4] = lines[4].rsplit("\t", 1)[0] + '\t"quoted'
    prepare(criteo_file(tmp_path, lines), tmp_path / "plain", PrepOptions("criteo"), progress=False)
    odd = tmp_path / "odd.txt"
    odd.write_bytes("\r\n".join([*lines[:50], "", *lines[50:]]).encode())
    schema = prepare(odd, tmp_path / "odd", PrepOptions("criteo"), progress=False)
    assert read_all(tmp_path / "odd").equals(read_all(tmp_path / "plain"))
    assert '"quoted' in pq.read_table(tmp_path / "odd" / "vocab" / "C26.parquet")["token"].to_pylist()
    assert sum(schema.rows.values()) == 100


def test_avazu(tmp_path: Path) -> None:
    raw = shared_data() / "avazu" / "avazu_9k.csv.gz"
    schema = prepare(raw, tmp_path / "out", PrepOptions("avazu"), progress=False)
    frame = pc_csv.read_csv(pa.input_stream(str(raw)))
    assert sum(schema.rows.values()) == frame.num_rows
    assert [feature.name for feature in schema.features][:4] == ["hour", "weekday", "C1", "banner_pos"]
    assert len(schema.features) == 23
    assert schema.numerics == ()
    # 14102100 is midnight of 21 October 2014, a Tuesday.
    assert pq.read_table(tmp_path / "out" / "vocab" / "hour.parquet")["token"].to_pylist() == [None, "0"]
    assert pq.read_table(tmp_path / "out" / "vocab" / "weekday.parquet")["token"].to_pylist() == [None, "1"]
    counts = Counter(str(value) for value in frame["site_id"].to_pylist()[: schema.rows["train"]])
    vocabulary = pq.read_table(tmp_path / "out" / "vocab" / "site_id.parquet").to_pylist()[1:]
    assert {row["token"]: row["count"] for row in vocabulary} == {t: c for t, c in counts.items() if c >= 2}


TABLE = """
label: clicked
numeric: [price]
categorical: [city]
multi_hot: [tags]
drop: [id]
list_separator: "|"
"""


def table_rows() -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": list(range(200)),
            "clicked": rng.integers(0, 2, 200),
            "price": [None if i % 9 == 0 else float(i) / 4 for i in range(200)],
            "city": [f"town, {i % 7}" for i in range(200)],
            "tags": ["|".join(f"t{j}" for j in range(i % 4)) for i in range(200)],
        }
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_any_table(tmp_path: Path, suffix: str) -> None:
    columns = tmp_path / "columns.yaml"
    columns.write_text(TABLE)
    raw, rows = tmp_path / f"rows{suffix}", table_rows()
    if suffix == ".parquet":
        lists = pa.array([tags.split("|") if tags else [] for tags in rows["tags"].to_pylist()])
        pq.write_table(rows.set_column(4, "tags", lists), raw)
    elif suffix == ".csv":
        pc_csv.write_csv(rows, raw)
    else:
        pc_csv.write_csv(
            rows, raw, pc_csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
        )
    schema = prepare(raw, tmp_path / "out", PrepOptions("table", columns=columns), progress=False)
    found = read_all(tmp_path / "out")
    assert [feature.multi_hot for feature in schema.features] == [False, True]
    tokens = pq.read_table(tmp_path / "out" / "vocab" / "tags.parquet")["token"].to_pylist()
    assert tokens == [None, "t0", "t1", "t2"]
    assert found["tags"].to_pylist()[:5] == [[], [1], [1, 2], [1, 2, 3], []]
    cities = pq.read_table(tmp_path / "out" / "vocab" / "city.parquet")["token"].to_pylist()
    assert [cities[i] for i in found["city"].to_pylist()] == rows["city"].to_pylist()
    np.testing.assert_allclose(found["price"], np.log1p(rows["price"].fill_null(0).to_numpy()), rtol=1e-6)
    encoded = pa.concat_tables(
        Encoder.load(tmp_path / "out").encode(part.table) for part in read_raw(raw, schema)
    )
    assert encoded.combine_chunks().equals(found)


def test_unlabelled_rows_can_be_scored(tmp_path: Path) -> None:
    lines = criteo_lines(50)
    prepare(criteo_file(tmp_path, lines), tmp_path / "out", PrepOptions("criteo"), progress=False)
    encoder = Encoder.load(tmp_path / "out")
    bare = [line.split("\t", 1)[1] for line in lines]
    bare[7] = bare[7] + "\textra"
    path = criteo_file(tmp_path, bare, "test.txt")
    (part,) = read_raw(path, encoder.schema)
    assert np.flatnonzero(~part.accepted).tolist() == [7]
    assert [reject.line for reject in part.rejects] == [8]
    encoded, whole = encoder.encode(part.table), read_all(tmp_path / "out")
    assert encoded.column_names == whole.column_names[1:]
    assert encoded.to_pylist() == whole.drop(["label"]).filter(pa.array(part.accepted)).to_pylist()
    with pytest.raises(SlimtabError, match="39 columns: the label is missing"):
        list(read_raw(path, encoder.schema, labelled=True))


def test_a_finished_dataset_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = criteo_file(tmp_path), tmp_path / "out"
    first = prepare(raw, out, PrepOptions("criteo"))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert (
        prepare(raw, out, PrepOptions("criteo", max_memory="1GB"))
        == first
        == Schema.load(out / "schema.json")
    )
    assert "already" in capsys.readouterr().err
    with pytest.raises(SlimtabError, match=r"min_count 2 instead of 5.*choose another OUT"):
        prepare(raw, out, PrepOptions("criteo", min_count=5))
    raw.write_text("\n".join(criteo_lines(1000, seed=1)) + "\n")
    with pytest.raises(SlimtabError, match="other raw files"):
        prepare(raw, out, PrepOptions("criteo"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_prep_never_touches_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years of work")
    with pytest.raises(SlimtabError, match="not a prepared dataset"):
        prepare(criteo_file(tmp_path), out, PrepOptions("criteo"), progress=False)
    assert (out / "thesis.txt").read_text() == "three years of work"
