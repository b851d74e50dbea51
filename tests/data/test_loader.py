"""The loader hands out every row once per epoch, in an order it can take up anywhere."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtab.data import loader as module
from slimtab.data.loader import Loader, Share
from slimtab.errors import SlimtabError
from slimtab.schema import Schema
from slimtab.testing import fake_dataset, fake_schema

ROWS = 1003
SCHEMA = fake_schema([7, 100_000, 50], numerics=4, multi_hot=[30, 1000])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A folder of several shards and blocks, and its training rows."""
    folder = tmp_path_factory.mktemp("dataset")
    rows = fake_dataset(folder, SCHEMA, {"train": ROWS, "valid": 100}, shard_rows=400, block_rows=60)
    return folder, rows["train"]


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(module, "BUFFER_BLOCKS", 5)


def rows_of(batch):
    """Return the rows as plain values, built cell by cell."""
    cells = [[] for _ in range(batch.size)]
    if batch.ragged is not None:
        at = 0
        for lengths in batch.ragged.lengths.tolist():
            for row, length in enumerate(lengths):
                cells[row].append(tuple(batch.ragged.values[at : at + length].tolist()))
                at += length
        assert at == len(batch.ragged.values)
    return [
        (label, *dense, *ids, *lists)
        for label, dense, ids, lists in zip(
            batch.label.tolist(), batch.dense.tolist(), batch.ids.tolist(), cells, strict=True
        )
    ]


def epoch(loader):
    return [row for batch in loader for row in rows_of(batch)]


def same(left, right):
    return rows_of(left) == rows_of(right)


@pytest.mark.parametrize("batch_size", [1, 59, 60, 64, 300, 301, 5000])
def test_every_row_once_per_epoch(dataset, batch_size):
    folder, rows = dataset
    loader = Loader(folder, "train", batch_size, shuffle=True, seed=3)
    first, second = epoch(loader), epoch(loader)
    assert sorted(first) == sorted(second) == sorted(rows_of(rows))
    assert first != second


def test_without_shuffle_the_order_of_the_files(dataset):
    folder, rows = dataset
    loader = Loader(folder, "train", 64, shuffle=False)
    assert epoch(loader) == rows_of(rows)
    assert epoch(loader) == rows_of(rows)


def test_seed_decides_the_order(dataset):
    folder, _ = dataset
    one, again, other = (epoch(Loader(folder, "train", 64, shuffle=True, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_split_that_fits_the_buffer_is_shuffled_completely(dataset, monkeypatch):
    monkeypatch.setattr(module, "BUFFER_BLOCKS", 64)
    folder, rows = dataset
    place = {row: number for number, row in enumerate(rows_of(rows))}
    order = np.array([place[row] for row in epoch(Loader(folder, "train", 64, shuffle=True))])
    # Neighbours in the file are as far apart as those of a random order: a third of the rows on average.
    assert np.abs(np.diff(np.argsort(order))).mean() == pytest.approx(ROWS / 3, rel=0.1)


def test_batch_sizes(dataset):
    folder, _ = dataset
    sizes = [batch.size for batch in Loader(folder, "train", 64, shuffle=True)]
    assert sizes == [64] * 15 + [43]
    for size in (64, 17, 1003, 2000):
        for drop_last in (False, True):
            loader = Loader(folder, "train", size, shuffle=True, drop_last=drop_last)
            handed = [batch.size for batch in loader]
            assert len(handed) == len(loader)
            assert not drop_last or set(handed) <= {size}
    assert loader.rows == ROWS


def test_types_and_shapes(dataset):
    folder, _ = dataset
    batch = next(iter(Loader(folder, "train", 64, shuffle=True)))
    assert (batch.dense.shape, batch.dense.dtype) == ((64, 4), torch.float32)
    assert (batch.ids.shape, batch.ids.dtype) == ((64, 3), torch.int64)
    assert (batch.label.shape, batch.label.dtype) == ((64,), torch.float32)
    assert batch.keys == ("C1", "C2", "C3")
    assert batch.ragged.keys == ("M1", "M2")
    assert (batch.ragged.lengths.shape, batch.ragged.lengths.dtype) == ((2, 64), torch.int64)
    assert batch.ragged.values.dtype == torch.int64
    assert batch.dense.is_contiguous()
    assert batch.ids.is_contiguous()


def test_a_batch_is_a_copy(dataset):
    """Filling the buffer again must not change a batch, nor writing to a batch the file."""
    folder, rows = dataset
    for shuffle in (False, True):
        loader = Loader(folder, "train", 64, shuffle=shuffle)
        kept = list(loader)
        assert sorted(row for batch in kept for row in rows_of(batch)) == sorted(rows_of(rows))
        kept[0].dense.zero_()
        kept[0].ids.zero_()


@settings(max_examples=40, deadline=None)
@given(
    position=st.integers(0, 40),
    batch_size=st.integers(20, 400),
    seed=st.integers(0, 2**40),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_resuming_is_exact(dataset, position, batch_size, seed, shuffle, drop_last):
    folder, _ = dataset

    def fresh():
        return Loader(folder, "train", batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)

    def endless(loader):
        while True:
            yield from loader

    loader = fresh()
    stream = endless(loader)
    for _ in range(position):
        next(stream)
    state = loader.state_dict()
    resumed = fresh()
    resumed.load_state_dict(state)
    for left, right, _ in zip(stream, endless(resumed), range(2 * len(loader) + 2), strict=False):
        assert same(left, right)


def test_position_counts_batches_handed_out(dataset):
    folder, _ = dataset
    loader = Loader(folder, "train", 100, shuffle=True)
    seen = [(loader.state_dict()["epoch"], loader.state_dict()["batch"]) for _ in loader]
    assert seen == [(0, n) for n in range(1, 12)]
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 0)


def test_at_the_end_of_an_epoch_the_rest_of_it_is_empty(dataset):
    folder, _ = dataset
    loader = Loader(folder, "train", 100, shuffle=True)
    for _ in loader:
        state = loader.state_dict()
    resumed = Loader(folder, "train", 100, shuffle=True)
    resumed.load_state_dict(state)
    assert list(resumed) == []
    assert epoch(resumed) == epoch(loader)


def test_leaving_a_loop_early_goes_on_behind_the_last_batch(dataset):
    folder, rows = dataset
    loader = Loader(folder, "train", 100, shuffle=True)
    first = rows_of(next(iter(loader)))
    assert sorted(first + epoch(loader)) == sorted(rows_of(rows))


@pytest.mark.parametrize("other", [{"seed": 1}, {"batch_size": 65}, {"shuffle": False}])
def test_a_position_of_another_loader_is_refused(dataset, other):
    folder, _ = dataset
    kept = {"batch_size": 64, "shuffle": True, "seed": 0}
    state = Loader(folder, "train", **kept).state_dict()
    with pytest.raises(SlimtabError, match=next(iter(other))):
        Loader(folder, "train", **{**kept, **other}).load_state_dict(state)


def test_keyed_jagged_tensor(dataset):
    folder, rows = dataset
    expected = rows_of(rows)[:50]
    kjt = next(iter(Loader(folder, "train", 50, shuffle=False))).kjt()
    assert kjt.keys() == ["C1", "C2", "C3", "M1", "M2"]
    assert kjt.stride() == 50
    for number, key in enumerate(kjt.keys(), 5):  # behind the label and four numbers
        cells = [row[number] if number >= 8 else (row[number],) for row in expected]
        assert kjt[key].lengths().tolist() == [len(cell) for cell in cells]
        assert kjt[key].values().tolist() == [value for cell in cells for value in cell]


def test_hashed_ids_keep_64_bits(tmp_path):
    features = tuple(dataclasses.replace(feature, encoding="hash") for feature in SCHEMA.features)
    schema = dataclasses.replace(SCHEMA, features=features)
    rows = fake_dataset(tmp_path, schema, {"train": 300}, block_rows=70)["train"]
    assert rows.ids.max() > 2**60
    assert sorted(epoch(Loader(tmp_path, "train", 64, shuffle=True))) == sorted(rows_of(rows))


@pytest.mark.parametrize(
    "schema", [fake_schema([5]), fake_schema([5], numerics=0), fake_schema([], multi_hot=[9])]
)
def test_kinds_of_columns_may_be_absent(tmp_path, schema):
    rows = fake_dataset(tmp_path, schema, {"train": 100}, block_rows=30)["train"]
    assert sorted(epoch(Loader(tmp_path, "train", 32, shuffle=True))) == sorted(rows_of(rows))


def test_a_block_larger_than_ours_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 64)
    rows = fake_dataset(tmp_path, SCHEMA, {"train": 1000}, block_rows=1000)["train"]
    assert sorted(epoch(Loader(tmp_path, "train", 50, shuffle=True))) == sorted(rows_of(rows))
    assert epoch(Loader(tmp_path, "train", 50, shuffle=False)) == rows_of(rows)


class TestErrors:
    """One line, with what to do."""

    @pytest.fixture
    def folder(self, tmp_path):
        fake_dataset(tmp_path, SCHEMA, {"train": 100, "valid": 10})
        return tmp_path

    def fails(self, folder, message, split="train"):
        with pytest.raises(SlimtabError, match=message) as caught:
            list(Loader(folder, split, 10, shuffle=True))
        assert "\n" not in str(caught.value)

    def test_no_dataset(self, tmp_path):
        self.fails(tmp_path, "slimtab prep")

    @pytest.mark.parametrize("split", ["test", "validation", ".."])
    def test_missing_split(self, folder, split):
        self.fails(folder, "it has: train, valid", split)

    def test_row_count(self, folder):
        schema = Schema.load(folder / "schema.json")
        dataclasses.replace(schema, rows={"train": 99}).save(folder / "schema.json")
        self.fails(folder, "holds 100 rows and schema.json says 99")

    @pytest.mark.parametrize("keep", [0, 10, 2000])
    def test_truncated_shard(self, folder, keep):
        path = folder / "train" / "part-00000.arrow"
        path.write_bytes(path.read_bytes()[:keep])
        self.fails(folder, "is damaged")

    def test_not_a_shard(self, folder):
        (folder / "train" / "part-00001.arrow").write_text("hello" * 100)
        self.fails(folder, "part-00001.arrow is damaged")

    def test_foreign_shard(self, folder):
        fake_dataset(folder / "other", fake_schema([7]), {"train": 100})
        (folder / "other" / "train" / "part-00000.arrow").replace(folder / "train" / "part-00000.arrow")
        self.fails(folder, "column 'I4' is absent")

    def test_other_type(self, folder):
        schema = Schema.load(folder / "schema.json")
        hashed = tuple(dataclasses.replace(feature, encoding="hash") for feature in schema.features)
        dataclasses.replace(schema, features=hashed).save(folder / "schema.json")
        self.fails(folder, "'C1' is int32 where schema.json says int64")

    def test_nulls(self, folder):
        path = folder / "train" / "part-00000.arrow"
        table = pa.ipc.open_file(path).read_all()
        table = table.set_column(0, "label", pa.array([None] + [0] * 99, pa.int8()))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
        self.fails(folder, "'label' has nulls")

    @pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"seed": -1}])
    def test_settings(self, folder, wrong):
        with pytest.raises(SlimtabError, match="seed"):
            Loader(folder, "train", **{"batch_size": 1, "shuffle": True, **wrong})


SHARES = [Share(rank, 3) for rank in range(3)]


def joined(batches):
    """The rows of one batch, share after share."""
    return [row for batch in batches for row in rows_of(batch)]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 64, 301])
def test_shares_of_a_batch_are_disjoint_and_complete(dataset, batch_size, shuffle):
    """Batches straddle fillings of the buffer, and the last holds fewer rows; steps are equal still."""
    folder, _ = dataset
    whole = list(Loader(folder, "train", batch_size, shuffle=shuffle, seed=3))
    parts = [list(Loader(folder, "train", batch_size, shuffle=shuffle, seed=3, share=s)) for s in SHARES]
    assert [len(part) for part in parts] == [len(whole)] * 3
    for batch, shares in zip(whole, zip(*parts, strict=True), strict=True):
        assert joined(shares) == rows_of(batch)
        assert max(s.size for s in shares) - min(s.size for s in shares) <= 1
        assert {s.whole for s in shares} == {batch.size}


def test_a_position_means_the_same_to_any_number_of_ranks(dataset):
    folder, _ = dataset
    two = [Loader(folder, "train", 64, shuffle=True, seed=3, share=Share(rank, 2)) for rank in range(2)]
    for _, _, _ in zip(*two, range(5), strict=False):
        pass
    rest = []
    for share in SHARES:
        loader = Loader(folder, "train", 64, shuffle=True, seed=3, share=share)
        loader.load_state_dict(two[0].state_dict())
        rest.append(list(loader))
    alone = Loader(folder, "train", 64, shuffle=True, seed=3)
    alone.load_state_dict(two[1].state_dict())
    for batch, shares in zip(alone, zip(*rest, strict=True), strict=True):
        assert joined(shares) == rows_of(batch)


def test_batches_made_ahead_are_the_same_and_leave_the_position_where_it_was(dataset):
    folder, _ = dataset
    placed = []

    def place(batch):
        placed.append(batch.size)
        return batch

    ahead = Loader(folder, "train", 100, shuffle=True, seed=3, place=place)
    plain = Loader(folder, "train", 100, shuffle=True, seed=3)
    for number, (one, other) in enumerate(zip(ahead, plain, strict=True), start=1):
        assert same(one, other)
        assert ahead.state_dict() == plain.state_dict()
        if number == 4:
            break
    assert len(placed) <= 5  # no more than one is made before it is asked for
    assert epoch(ahead) == epoch(plain)


def test_what_fails_while_a_batch_is_made_ahead_is_raised_where_it_is_used(dataset):
    folder, _ = dataset

    def place(batch):
        raise SlimtabError("no room")

    with pytest.raises(SlimtabError, match="no room"):
        next(iter(Loader(folder, "train", 100, shuffle=False, place=place)))
