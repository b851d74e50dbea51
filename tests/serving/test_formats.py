"""The formats: the same numbers in all, at any batch size, whatever the ids."""

import numpy as np
import pytest
import torch
from frozen_models import DIM, make_dataset, make_frozen, raw_rows

from slimtab.collection import TableCollection
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.serving import load
from slimtab.serving.arrays import check_arrays, to_arrays
from slimtab.serving.export import export
from slimtab.tables.base import in_last_stage, methods

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


@pytest.fixture(scope="module")
def frozen_tables():
    """A method for each way of reading a table: the classes that its frozen form is made of."""
    features, found = [Feature("a", 3000), Feature("b", 40), Feature("c", 500)], {}
    for name, method in methods().items():
        nbytes = max(30_000, method.Config.smallest_bytes(features, DIM))
        table = TableCollection.build(features, DIM, name, nbytes, init_std=0.3).table
        frozen = in_last_stage(table).freeze().eval()
        found.setdefault(tuple(sorted(type(m).__qualname__ for m in frozen.modules())), (name, frozen))
    return dict(found.values())


def test_every_table_is_the_same_in_onnx(frozen_tables, tmp_path):
    """ONNX has no views, signed shifts or bags: each lookup's arithmetic is put in other words."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from slimtab.serving.formats.onnx_ops import TRANSLATIONS

    assert len(frozen_tables) >= 18
    ids = torch.cat([torch.arange(3000), torch.arange(40), torch.arange(500)])
    slot = torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor([3000, 40, 500]))
    rows = torch.export.Dim("rows", min=1)
    for method, table in frozen_tables.items():
        with torch.no_grad():
            program = torch.onnx.export(
                table,
                (ids[:7], slot[:7]),
                dynamo=True,
                verbose=False,
                dynamic_shapes=({0: rows}, {0: rows}),
                input_names=["ids", "slot"],
                custom_translation_table=TRANSLATIONS,
            )
            want = table(ids, slot).numpy()
        program.save(tmp_path / "table.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "table.onnx")
        for part in (slice(0, 1), slice(2990, 3100), slice(None)):
            got = session.run(None, {"ids": ids[part].numpy(), "slot": slot[part].numpy()})[0]
            np.testing.assert_allclose(got, want[part], atol=1e-5, err_msg=method)


def test_formats_agree(data, arrays, tmp_path):
    """The whole program, within 1e-5: with weights this large a lookup that is wrong is off by far more."""
    frozen = make_frozen(data, "rq", tmp_path / "frozen")
    want = load(frozen)
    assert want.predict_encoded(*arrays.inputs()).std() > 0.05
    for name in ("pt2", "onnx"):
        export(frozen, name, tmp_path / name)
        assert worst(arrays, want, load(tmp_path / name)) < 1e-5


def test_another_model_agrees(data, arrays, tmp_path):
    frozen = make_frozen(data, "full", tmp_path / "frozen", "dlrm")
    export(frozen, "onnx", tmp_path / "onnx")
    assert worst(arrays, load(frozen), load(tmp_path / "onnx")) < 1e-5


@pytest.mark.slow
def test_compiled_code_agrees(data, arrays, tmp_path):
    """One method, for compiling takes half a minute."""
    frozen = make_frozen(data, "int8", tmp_path / "frozen")
    export(frozen, "aoti", tmp_path / "aoti")
    assert worst(arrays, load(frozen), load(tmp_path / "aoti")) < 1e-5


def test_hashed_ids_agree(tmp_path):
    """Ids of 63 bits, and no vocabulary: what ONNX knows of 64-bit arithmetic is all in use."""
    data = make_dataset(tmp_path / "hashed", ids="hash")
    frozen = make_frozen(data, "unified", tmp_path / "frozen")
    want = load(frozen).predict(raw_rows(data))
    export(frozen, "onnx", tmp_path / "onnx")
    np.testing.assert_allclose(load(tmp_path / "onnx").predict(raw_rows(data)), want, atol=1e-5)


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
            ({"dense": lambda a: np.where(a == a[0, 0], np.inf, a)}, "inf is no number"),
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
        with np.errstate(over="ignore", invalid="ignore"):
            given |= {name: edit(given[name]) for name, edit in change.items()}
        with pytest.raises(SlimtabError, match=message):
            predictor.predict_encoded(**given)

    def test_no_rows(self, predictor, arrays):
        none = next(iter(arrays.parts(1)))
        empty = check_arrays(
            predictor.schema, none.dense[:0], none.ids[:0], none.values[:0], none.lengths[:, :0]
        )
        assert predictor.predict_encoded(*empty.inputs()).shape == (0,)
