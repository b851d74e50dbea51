"""The generator writes Criteo's format, the same bytes at a seed, and labels that its ids explain."""

import gzip

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from slimtab.data import synthetic
from slimtab.data.kaggle import CRITEO_KAGGLE
from slimtab.data.synthetic import write_criteo
from slimtab.errors import SlimtabError


def read(path):
    table = pl.read_csv(path, separator="\t", has_header=False, infer_schema=False)
    names = ["label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]
    return table.rename(dict(zip(table.columns, names, strict=True)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "raw.tsv"
    return write_criteo(path, 80_000, ids=5000), path


def test_format(made):
    table = read(made[1])
    assert table.shape == (80_000, 40)
    assert set(table["label"].unique()) == {"0", "1"}
    for number in range(1, 14):
        table[f"I{number}"].cast(pl.Int64)
    assert table["I2"].cast(pl.Int64).min() == -2
    for number in range(1, 27):
        assert table[f"C{number}"].drop_nulls().str.contains("^[0-9a-f]{8}$").all()


def test_rates(made):
    table = read(made[1])
    missing = {name: table[name].null_count() / len(table) for name in table.columns}
    expected = {"I12": 0.76, "I1": 0.45, "I10": 0.45, "C22": 0.76, "C1": 0.0, "I2": 0.0}
    expected |= dict.fromkeys(("C19", "C20", "C25", "C26"), 0.44)
    for name, share in expected.items():
        assert missing[name] == pytest.approx(share, abs=0.01)
    assert (table["label"] == "1").mean() == pytest.approx(synthetic.CLICK_RATE, abs=0.01)


def test_vocabularies_keep_their_proportions(made):
    table = read(made[1])
    assert 4000 < table["C3"].n_unique() <= 5001
    assert table["C9"].n_unique() == 3
    assert table["C1"].n_unique() <= 101
    counts = table["C3"].drop_nulls().value_counts(sort=True)["count"]
    assert counts[0] > 20 * counts[len(counts) // 2]  # a heavy head
    assert max(CRITEO_KAGGLE) == 10_131_227


def test_ids_explain_the_labels(made):
    """Click rates per id, taken from one half, rank the other half."""
    table = read(made[1]).with_columns(pl.col("label").cast(pl.Float64))
    first, second = table[:40_000], table[40_000:]
    score = np.zeros(len(second))
    for number in range(1, 27):
        name = f"C{number}"
        clicks = first.group_by(name).agg(((pl.col("label").sum() + 5) / (pl.len() + 20)).alias("rate"))
        rate = second.join(clicks, on=name, how="left", nulls_equal=True, maintain_order="left")["rate"]
        score += np.log(rate.fill_null(0.25).to_numpy())
    assert roc_auc_score(second["label"], score) > 0.65
    assert 0.78 < made[0].bayes_auc < 0.84


def test_same_seed_same_bytes_and_a_longer_file_begins_with_the_shorter(tmp_path):
    for name, rows, seed in (("a", 70_000, 1), ("b", 70_000, 1), ("long", 70_010, 1), ("other", 70_000, 2)):
        write_criteo(tmp_path / name, rows, seed=seed)
    text = (tmp_path / "a").read_bytes()
    assert text == (tmp_path / "b").read_bytes()
    assert (tmp_path / "long").read_bytes().startswith(text)
    assert text != (tmp_path / "other").read_bytes()
    assert text.count(b"\n") == 70_000


def test_compressed_by_suffix(tmp_path):
    import zstandard

    for name in ("raw.tsv", "raw.tsv.gz", "raw.tsv.zst"):
        write_criteo(tmp_path / name, 500)
    plain = (tmp_path / "raw.tsv").read_bytes()
    assert gzip.decompress((tmp_path / "raw.tsv.gz").read_bytes()) == plain
    with zstandard.open(tmp_path / "raw.tsv.zst", "rb") as unpacked:
        assert unpacked.read() == plain


def test_without_signal_nothing_can_be_learnt(tmp_path):
    assert write_criteo(tmp_path / "raw.tsv", 20_000, signal=0).bayes_auc == pytest.approx(0.5, abs=1e-6)


def test_malformed_lines_are_where_it_says(tmp_path):
    clean, damaged = tmp_path / "clean.tsv", tmp_path / "damaged.tsv"
    write_criteo(clean, 3000)
    made = write_criteo(damaged, 3000, malformed=0.05)
    pairs = zip(clean.read_bytes().splitlines(), damaged.read_bytes().splitlines(), strict=True)
    differing = [number for number, (left, right) in enumerate(pairs, 1) if left != right]
    assert differing == list(made.malformed)
    assert 100 < len(differing) < 200
    lines = damaged.read_bytes().splitlines()
    kinds = [lines[number - 1].split(b"\t") for number in made.malformed[:4]]
    assert [len(cells) for cells in kinds] == [39, 40, 40, 40]
    assert kinds[1][2] == b"1x"
    assert b"\xff" in kinds[2][20]
    assert kinds[3][0] == b"2"


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"ids": 0}, {"malformed": 1.5}, {"seed": -1}])
def test_settings_out_of_range(tmp_path, wrong):
    with pytest.raises(SlimtabError, match="cannot make"):
        write_criteo(tmp_path / "raw.tsv", **{"rows": 10, **wrong})


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "raw.tsv"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "_format", full)
    with pytest.raises(SlimtabError, match="No space left"):
        write_criteo(path, 10)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(SlimtabError, match="cannot write"):
        write_criteo(tmp_path / "absent" / "raw.tsv", 10)
