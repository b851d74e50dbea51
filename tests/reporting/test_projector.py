"""The projector's files, read back with TensorBoard's own plugin code and by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from google.protobuf import text_format
from tensorboard.plugins.projector import ProjectorConfig
from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file

from slimtab.collection import TableCollection
from slimtab.data.vocabulary import PARQUET_SCHEMA
from slimtab.reporting.projector import write_projector
from slimtab.schema import Feature
from slimtab.tables.base import in_last_stage, methods

FEATURES = (
    Feature("C1", 4),
    Feature("C2", 300),
    Feature("M1", 40, multi_hot=True),
)
NASTY = ["tab\there", 'a "quote"', "line\nbreak\r\n"]


@pytest.fixture
def data(tmp_path):
    """Vocabularies: C1's tokens are hard to write down, those of the others say feature and id."""
    folder = tmp_path / "data"
    (folder / "vocab").mkdir(parents=True)
    for feature in FEATURES:
        tokens = [None, *(f"{feature.name}={number}" for number in range(1, feature.num_ids))]
        if feature.name == "C1":
            tokens = [None, *NASTY]
        numbers = range(feature.num_ids)
        columns = {"token": tokens, "id": list(numbers), "count": [1000 - number for number in numbers]}
        table = pa.table(columns, schema=PARQUET_SCHEMA)
        pq.write_table(table, folder / "vocab" / f"{feature.name}.parquet")
    return folder


def build(method="full", features=FEATURES, budget=None):
    torch.manual_seed(0)
    tables = TableCollection.build(features, 8, method, budget, init_std=1.0)
    in_last_stage(tables.table)
    return tables.eval()


def read(folder):
    """The vectors, and the cells of the labels without their heading."""
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (info,) = config.embeddings
    vectors = _read_tensor_tsv_file(str(folder / info.tensor_path))
    assert list(info.tensor_shape) == list(vectors.shape)
    head, *lines = (folder / info.metadata_path).read_bytes().decode().split("\n")
    assert lines.pop() == ""
    cells = [line.split("\t") for line in lines]
    assert {len(row) for row in cells} == {len(head.split("\t"))}
    assert len(cells) == len(vectors)
    return vectors, cells


def test_each_vector_stands_beside_its_own_token(data, tmp_path):
    """Feature after feature, by id; the row is the one the full table holds."""
    tables = build()
    write_projector(tmp_path, tables, data)
    vectors, cells = read(tmp_path)
    assert len(vectors) == 344
    rows = tables.table.rows.values().numpy()
    np.testing.assert_allclose(vectors, rows, rtol=1e-3)
    for token, feature, number, count, _ in cells:
        assert int(count) == 1000 - int(number)
        if feature != "C1" and number != "0":
            assert token == f"{feature}={number}"
    assert [row[1] for row in cells] == [f.name for f in FEATURES for _ in range(f.num_ids)]
    assert sum(row[0] == "(out of vocabulary)" for row in cells) == 3


def test_tokens_do_not_break_the_table(data, tmp_path):
    """TensorBoard splits at every tab and newline, whatever stands around them; `read` counts the cells."""
    write_projector(tmp_path, build(), data)
    tokens = [row[0] for row in read(tmp_path)[1][1:4]]
    assert tokens == ["tab\ufffdhere", 'a "quote"', "line\ufffdbreak\ufffd\ufffd"]


def test_long_and_empty_tokens(data, tmp_path):
    """A label nobody can read, or see, is no label."""
    path = data / "vocab" / "C1.parquet"
    table = pq.read_table(path)
    table = table.set_column(0, "token", pa.array([None, "x" * 5000, "", "c"], pa.string()))
    pq.write_table(table, path)
    write_projector(tmp_path, build(), data)
    tokens = [row[0] for row in read(tmp_path)[1][1:4]]
    assert tokens == ["x" * 39 + "…", "(empty)", "c"]


def test_points_are_bounded_and_every_feature_has_some(data, tmp_path):
    """The most frequent ids of each feature, equally many or all there are."""
    write_projector(tmp_path, build(), data, points=34)
    vectors, cells = read(tmp_path)
    assert len(vectors) == 34
    numbers = {f.name: [int(row[2]) for row in cells if row[1] == f.name] for f in FEATURES}
    assert numbers == {"C1": [*range(4)], "C2": [*range(15)], "M1": [*range(15)]}


@pytest.mark.parametrize("method", sorted(methods()))
def test_every_method_shows_what_the_network_sees(data, tmp_path, method):
    """Looked up and projected: what `embed` gives, whatever the method keeps."""
    fixed = method in ("full", "int8", "int16", "alpt")
    tables = build(method, budget=None if fixed else "60%")
    write_projector(tmp_path, tables, data, points=30)
    vectors, cells = read(tmp_path)
    frozen = tables.freeze()
    for slot, feature in enumerate(FEATURES):
        mine = [place for place, row in enumerate(cells) if row[1] == feature.name]
        ids = torch.tensor([int(cells[place][2]) for place in mine])
        looked_up = frozen.table(ids, torch.full_like(ids, slot))
        pooled = torch.zeros(len(ids), len(FEATURES), looked_up.shape[1])
        pooled[:, slot] = looked_up
        expected = frozen.table.project(pooled)[:, slot].detach().numpy()
        np.testing.assert_allclose(vectors[mine], expected, rtol=2e-3, atol=1e-5)


def test_hashed_ids_have_no_tokens(data, tmp_path):
    """Such features are left out, and where all are, nothing is written."""
    mixed = (Feature("C1", 4), Feature("H", 300, encoding="hash"))
    write_projector(tmp_path, build("unified", mixed, "50%"), data)
    assert {row[1] for row in read(tmp_path)[1]} == {"C1"}
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    write_projector(nothing, build("unified", mixed[1:], "50%"), data)
    assert not list(nothing.iterdir())
