"""Raw rows from whatever a caller holds, what is wrong with them, and artefacts that are damaged."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from frozen_models import edit_card, make_dataset, make_frozen, raw_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimtab.errors import SlimtabError
from slimtab.serving import load
from slimtab.serving.export import export
from slimtab.serving.formats import FORMATS

QUICK = [name for name in FORMATS if name != "aoti"]  # which takes most of a minute to compile


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same model in all formats."""
    root = tmp_path_factory.mktemp("formats")
    data = make_dataset(root / "table")
    frozen = make_frozen(data, "int8", root / "frozen")
    for name in QUICK:
        export(frozen, name, root / name)
    return root


@pytest.fixture(scope="module")
def predictors(folders):
    return {name: load(folders / name) for name in QUICK}


@pytest.fixture(scope="module")
def predictor(predictors):
    return predictors["safetensors"]


@pytest.fixture(scope="module")
def rows(folders):
    return raw_rows(folders / "table" / "data")


ROW = {"age": 31, "price": -2.5, "user": "u7", "site": "s3", "day": "4", "tags": "t1 t5", "words": "w3"}


class TestKindsOfRows:
    def test_tables(self, predictor, rows):
        want = predictor.predict(rows)
        for held in (rows.to_pandas(), pl.from_arrow(rows), rows.combine_chunks().to_batches()[0]):
            assert np.array_equal(predictor.predict(held), want), type(held)

    def test_dicts(self, predictor, rows):
        want = predictor.predict(rows)[:20]
        dicts = rows.slice(0, 20).to_pylist()
        np.testing.assert_allclose(predictor.predict(dicts), want, atol=1e-7)
        np.testing.assert_allclose(predictor.predict(dicts[3]), want[3:4], atol=1e-7)

    def test_cells_of_other_types(self, predictor):
        """JSON has numbers where a file had text, and lists where it had separated words."""
        same = ROW | {"day": 4, "age": 31.0, "tags": ["t1", "t5"], "words": ("w3",)}
        assert predictor.predict(same) == predictor.predict(ROW)
        frame = pd.DataFrame([same]).astype({"day": "category", "user": "category"})
        assert predictor.predict(frame) == predictor.predict(ROW)

    def test_a_row_does_not_depend_on_those_beside_it(self, predictor):
        """One type for a column of all rows would make text of some and numbers of others."""
        mixed = [ROW, ROW | {"day": 4}, ROW | {"user": 5}, ROW | {"tags": None}]
        alone = [predictor.predict(row)[0] for row in mixed]
        np.testing.assert_allclose(predictor.predict(mixed), alone, atol=1e-7)

    def test_more_rows_than_are_run_at_a_time(self, predictor, rows):
        many = pa.concat_tables([rows] * 12)
        np.testing.assert_allclose(predictor.predict(many), np.tile(predictor.predict(rows), 12), atol=1e-7)

    def test_columns_beyond_those_needed(self, predictor):
        """A label of any kind too: it is not asked for."""
        assert predictor.predict(ROW | {"clicked": "yes", "other": object()}) == predictor.predict(ROW)

    def test_no_rows(self, predictor, rows):
        assert predictor.predict([]).shape == predictor.predict(rows.slice(0, 0)).shape == (0,)


class TestUnknownAndMissing:
    def test_unseen_token_is_out_of_vocabulary(self, predictor):
        unseen = predictor.predict(ROW | {"user": "nobody", "tags": "never t1"})
        assert unseen == predictor.predict(ROW | {"user": "else", "tags": "t1 new"})
        assert unseen != predictor.predict(ROW)

    def test_nulls(self, predictor):
        """A missing number is its mean, a missing list is empty, NaN is missing."""
        nothing = dict.fromkeys(ROW)
        assert predictor.predict(nothing) == predictor.predict(
            {**nothing, "age": float("nan"), "tags": "", "words": []}
        )


class TestWrong:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"age": "31"}, "column 'age', row 0: '31' is not a number"),
            ({"age": True}, "column 'age', row 0: True is not a number"),
            ({"age": [31]}, "'age'.* is not a number"),
            ({"age": 1e39}, "column 'age', row 0: 1e\\+39 is beyond"),
            ({"price": float("inf")}, "'price', row 0: inf is beyond"),
            ({"age": 10**400}, "column 'age', row 0: .*too large"),
            ({"user": {"id": 7}}, "column 'user', row 0: {'id': 7} is no token"),
            ({"user": b"u7"}, "is no token"),
            ({"user": "\ud800"}, "is no valid Unicode"),
            ({"tags": [["t1"]]}, "column 'tags', row 0: .* is no token"),
            ({"tags": 7}, "column 'tags', row 0: 7 is no list of tokens"),
        ],
    )
    def test_a_cell(self, predictor, change, message):
        with pytest.raises(SlimtabError, match=message):
            predictor.predict(ROW | change)

    def test_the_row_is_named(self, predictor):
        with pytest.raises(SlimtabError, match="'age', row 2: 'x'"):
            predictor.predict([ROW, ROW, ROW | {"age": "x"}])
        with pytest.raises(SlimtabError, match="row 1 has no column 'user'; did you mean 'uSer'"):
            predictor.predict([ROW, {k: v for k, v in ROW.items() if k != "user"} | {"uSer": 1}])
        with pytest.raises(SlimtabError, match="row 1 is a int"):
            predictor.predict([ROW, 3])

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda t: t.drop_columns(["site"]), "the rows have no column 'site'"),
            (lambda t: t.append_column("site", t["site"]), "two columns named 'site'"),
            (lambda t: t.set_column(1, "age", t["user"]), "column 'age' holds large_string; give numbers"),
            (lambda t: t.set_column(3, "user", pa.array([b"x"] * len(t))), "column 'user' holds binary"),
            (lambda t: t.set_column(3, "user", pa.array([{"a": 1}] * len(t))), "column 'user' holds struct"),
            (
                lambda t: t.set_column(1, "age", pa.array([1.0, 1e300] * (len(t) // 2))),
                "row 1: 1e\\+300",
            ),
        ],
    )
    def test_a_table(self, predictor, rows, edit, message):
        with pytest.raises(SlimtabError, match=message):
            predictor.predict(edit(rows))

    def test_columns_of_several_types(self, predictor):
        frame = pd.DataFrame([ROW, ROW]).astype(object)
        frame.loc[1, "user"] = 5.5
        with pytest.raises(SlimtabError, match="the rows cannot be read"):
            predictor.predict(frame)

    @pytest.mark.parametrize("rows", [None, "age=3", 3, np.zeros((2, 7))])
    def test_no_rows_at_all(self, predictor, rows):
        with pytest.raises(SlimtabError, match="give a dict, a list of dicts, or a pandas"):
            predictor.predict(rows)


cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.binary(max_size=3),
    st.sampled_from(["u7", "s3", "4", "t1 t5", "w3", "", " "]),
    st.lists(st.one_of(st.none(), st.text(max_size=3), st.integers(), st.floats()), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
any_row = st.one_of(
    st.fixed_dictionaries({name: st.one_of(st.just(value), cells) for name, value in ROW.items()}),
    st.dictionaries(st.sampled_from([*ROW, "clicked", "other", ""]), cells, max_size=9),
)


def outcome(predictor, rows):
    try:
        return predictor.predict(rows)
    except SlimtabError as error:
        return str(error)


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(any_row, max_size=4))
def test_any_rows_have_one_outcome(predictors, rows):
    """Whatever comes in: probabilities, the same in all formats, or one line, the same in all formats."""
    first, *others = [outcome(predictor, rows) for predictor in predictors.values()]
    if isinstance(first, str):
        assert "\n" not in first
    else:
        assert first.shape == (len(rows),)
        assert ((first >= 0) & (first <= 1)).all()
    for other in others:
        if isinstance(first, str):
            assert other == first
        else:
            np.testing.assert_allclose(other, first, atol=1e-5)


ids = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 500))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    found=st.lists(st.tuples(ids, ids, ids, st.lists(ids, max_size=3), st.lists(ids, max_size=3)), max_size=5)
)
def test_any_ids_have_one_outcome(predictors, found):
    """One outside its range, negative ones among them, reads row 0 and never another row."""
    size, schema = len(found), predictors["pt2"].schema
    one_hot = np.array([row[:3] for row in found], np.int64).reshape(size, 3)
    bags = [row[3] for row in found], [row[4] for row in found]
    last = [feature.num_ids - 1 for feature in schema.features]
    given = [
        np.zeros((size, 2), np.float32),
        one_hot,
        np.array([i for bag in bags for b in bag for i in b], np.int64),
    ]
    given.append(np.array([[len(b) for b in bag] for bag in bags], np.int64).reshape(2, size))
    kept = [np.where((one_hot < 0) | (one_hot > last[:3]), 0, one_hot)]
    flat = [i if 0 <= i <= last[3 + n] else 0 for n, bag in enumerate(bags) for b in bag for i in b]
    kept.append(np.array(flat, np.int64))
    want = predictors["safetensors"].predict_encoded(given[0], *kept, given[3])
    for predictor in predictors.values():
        np.testing.assert_allclose(predictor.predict_encoded(*given), want, atol=1e-5)


class TestDamaged:
    @pytest.mark.parametrize("name", QUICK)
    def test_a_file_cut_short_is_named(self, folders, name, tmp_path):
        """Whichever it is: program, weights, vocabulary, schema, card."""
        files = [path.relative_to(folders / name) for path in (folders / name).rglob("*") if path.is_file()]
        assert len(files) >= 6
        for file in files:
            shutil.rmtree(tmp_path / "cut", ignore_errors=True)
            shutil.copytree(folders / name, tmp_path / "cut")
            whole = (tmp_path / "cut" / file).read_bytes()
            for size in (0, len(whole) // 2, len(whole) - 2):
                (tmp_path / "cut" / file).write_bytes(whole[:size])
                with pytest.raises(SlimtabError, match=str(tmp_path / "cut")):
                    load(tmp_path / "cut")
            (tmp_path / "cut" / file).unlink()
            with pytest.raises(SlimtabError, match=str(tmp_path / "cut")):
                load(tmp_path / "cut")

    @pytest.mark.parametrize("name", QUICK)
    def test_bytes_of_something_else_are_no_program(self, folders, name, tmp_path):
        """Of the right size, so that only who reads them can tell."""
        shutil.copytree(folders / name, tmp_path / "other")
        card = json.loads((tmp_path / "other" / "model.json").read_text())
        file = max((n for n in card["files"] if "/" not in n), key=lambda n: n.startswith("model"))
        (tmp_path / "other" / file).write_bytes(b"?" * card["files"][file])
        with pytest.raises(SlimtabError, match=r"cannot be loaded|damaged"):
            load(tmp_path / "other")

    def test_encoder_of_other_columns(self, folders, tmp_path):
        shutil.copytree(folders / "pt2", tmp_path / "other")
        edit_card(tmp_path / "other", schema_fingerprint="0" * 16)
        with pytest.raises(SlimtabError, match="belongs to other columns"):
            load(tmp_path / "other")

    def test_unknown_format(self, folders, tmp_path):
        shutil.copytree(folders / "pt2", tmp_path / "other")
        edit_card(tmp_path / "other", format="pt3")
        with pytest.raises(SlimtabError, match="unknown format 'pt3'; did you mean 'pt2'"):
            load(tmp_path / "other")

    def test_nothing_there(self, tmp_path):
        with pytest.raises(SlimtabError, match="no frozen model at"):
            load(tmp_path)


BLOCKED = """
import sys
sys.modules |= dict.fromkeys({blocked!r})  # as if they were not installed
import slimtab.serving
print(*slimtab.serving.load({folder!r}).predict([{row!r}, {row!r}]))
"""
NEVER = {"torchrec", "fbgemm_gpu", "optuna", "tensorboard", "matplotlib", "sklearn"}


@pytest.mark.parametrize("name", QUICK)
def test_serves_where_little_is_installed(folders, predictor, name):
    """torch alone, and for ONNX not even that."""
    blocked = NEVER | ({"torch", "onnx", "onnxscript"} if name == "onnx" else set())
    code = BLOCKED.format(blocked=blocked, folder=str(folders / name), row=ROW)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        [float(word) for word in done.stdout.split()], predictor.predict([ROW, ROW]), atol=1e-6
    )


def test_missing_package_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SlimtabError, match=r"pip install 'slimtab\[onnx\]'"):
        load(folders / "onnx")
