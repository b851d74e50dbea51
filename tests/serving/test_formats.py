"""Every method in every format: the same numbers, at any batch size, whatever the ids."""

import numpy as np
import pytest
import torch
from frozen_models import make_dataset, make_frozen, raw_rows

from slimtab.serving import load
from slimtab.serving.arrays import check_arrays, to_arrays
from slimtab.serving.export import export
from slimtab.tables.base import methods

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("table") / "table")


@pytest.fixture(scope="module")
def arrays(data):
    """All rows encoded, and ids that no feature has: they read the row out of vocabulary."""
    predictor = load(make_frozen(data, "full", data.parent / "any"))
    found = to_arrays(predictor._encoder.encode(predictor._reader.read(raw_rows(data))), predictor.schema)
    found.ids[::7, 1], found.ids[::11, 2], found.values[::5] = -1, 2**40, -(2**63)
    return found


def worst(arrays, want, predictor):
    """Largest difference in probability, over batches of 1, 2 and 33 rows, no multi-hot id, and all."""
    differences = []
    for rows in (1, 2, 33, len(arrays.dense)):
        for part in list(arrays.parts(rows))[:3]:
            got = predictor.predict_encoded(*part.inputs())
            differences.append(np.abs(got - want.predict_encoded(*part.inputs())).max())
    bare = [arrays.dense[:4], arrays.ids[:4], arrays.values[:0], 0 * arrays.lengths[:, :4]]
    differences.append(np.abs(predictor.predict_encoded(*bare) - want.predict_encoded(*bare)).max())
    return max(differences)


@pytest.mark.parametrize("method", methods())
def test_formats_agree(method, data, arrays, tmp_path):
    """Within 1e-5: a lookup that a format computes wrong is off by far more, with weights this large."""
    frozen = make_frozen(data, method, tmp_path / "frozen")
    want = load(frozen)
    assert want.predict_encoded(*arrays.inputs()).std() > 3e-4  # far more than the difference allowed
    for name in ("pt2", "onnx"):
        export(frozen, name, tmp_path / name)
        assert worst(arrays, want, load(tmp_path / name)) < 1e-5


@pytest.mark.parametrize("model", ["dlrm", "dcn"])
def test_other_models_agree(model, data, arrays, tmp_path):
    frozen = make_frozen(data, "full", tmp_path / "frozen", model)
    for name in ("pt2", "onnx"):
        export(frozen, name, tmp_path / name)
        assert worst(arrays, load(frozen), load(tmp_path / name)) < 1e-5


@pytest.mark.parametrize("method", ["int8"])
def test_compiled_code_agrees(method, data, arrays, tmp_path):
    """One method, for compiling takes most of a minute on a busy machine."""
    frozen = make_frozen(data, method, tmp_path / "frozen")
    export(frozen, "aoti", tmp_path / "aoti")
    assert worst(arrays, load(frozen), load(tmp_path / "aoti")) < 1e-5


def test_hashed_ids_agree(tmp_path):
    """Ids of 63 bits, and no vocabulary: what ONNX knows of 64-bit arithmetic is all in use."""
    data = make_dataset(tmp_path / "hashed", ids="hash")
    frozen = make_frozen(data, "unified", tmp_path / "frozen")
    want = load(frozen).predict(raw_rows(data))
    for name in ("pt2", "onnx"):
        export(frozen, name, tmp_path / name)
        np.testing.assert_allclose(load(tmp_path / name).predict(raw_rows(data)), want, atol=1e-5)


def test_probabilities_are_those_of_the_model(data, arrays, tmp_path):
    """Against the model itself, so that formats cannot agree on something else."""
    from slimtab.serving.freeze import load_frozen
    from slimtab.serving.predict import to_batches

    frozen = make_frozen(data, "hash", tmp_path / "frozen")
    model, encoder = load_frozen(frozen)
    (batch,) = to_batches(encoder.encode(raw_rows(data)), encoder.schema)
    with torch.no_grad():
        want = torch.sigmoid(model(batch).double()).numpy()
    np.testing.assert_allclose(load(frozen).predict(raw_rows(data)), want, atol=1e-9)


class TestEncodedInput:
    @pytest.fixture(scope="class")
    def predictor(self, data):
        return load(make_frozen(data, "full", data.parent / "encoded"))

    def test_ids_of_any_integer_type(self, predictor, arrays):
        want = predictor.predict_encoded(*arrays.inputs())
        ids = np.clip(arrays.ids, -1, 2**31 - 1).astype(np.int32)
        values = np.clip(arrays.values, -1, 2**31 - 1).astype(np.int32)
        got = predictor.predict_encoded(arrays.dense.astype(np.float64), ids, values, arrays.lengths)
        assert np.array_equal(got, want)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"dense": lambda a: a[:, :1]}, r"dense has the shape \[1500, 1\], where \[1500, 2\]"),
            ({"dense": lambda a: a.astype(int)}, "dense holds int64"),
            ({"dense": lambda a: np.where(a == a[0, 0], np.nan, a)}, "column 'age', row 0: nan is no number"),
            ({"dense": lambda a: a * np.float32(1e39)}, "inf is no number"),
            ({"ids": lambda a: a[:-1]}, "ids has the shape"),
            ({"ids": lambda a: a.astype(float)}, "ids holds float64"),
            ({"values": lambda a: a[:-1]}, "lengths add up to"),
            ({"values": lambda a: None}, "'tags' is multi-hot"),
            ({"lengths": lambda a: a[:1]}, "lengths has the shape"),
            ({"lengths": lambda a: a - 2 * (a == a.max())}, "lengths"),
            ({"lengths": lambda a: -a}, "lengths holds a negative number"),
        ],
    )
    def test_what_does_not_fit_is_named(self, predictor, arrays, change, message):
        given = {name: getattr(arrays, name) for name in ("dense", "ids", "values", "lengths")}
        with np.errstate(over="ignore"):
            given |= {name: edit(given[name]) for name, edit in change.items()}
        from slimtab.errors import SlimtabError

        with pytest.raises(SlimtabError, match=message):
            predictor.predict_encoded(**given)

    def test_no_rows(self, predictor, arrays):
        none = next(iter(arrays.parts(1)))
        empty = check_arrays(
            predictor.schema, none.dense[:0], none.ids[:0], none.values[:0], none.lengths[:, :0]
        )
        assert predictor.predict_encoded(*empty.inputs()).shape == (0,)
