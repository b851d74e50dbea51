"""Batch to KeyedJaggedTensor: the door to TorchRec."""

import torch

from slimtab.testing import fake_batch, fake_schema


def test_kjt_holds_every_id_under_its_feature_and_row():
    """Compared cell by cell with the batch: a shifted column would still train, only worse."""
    schema = fake_schema([10, 1000, 7], multi_hot=[50, 30])
    batch = fake_batch(schema, 33, seed=0)
    kjt = batch.kjt()
    assert kjt.keys() == ["C1", "C2", "C3", "M1", "M2"]
    assert kjt.stride() == batch.size == 33
    parts = kjt.to_dict()
    for column, key in enumerate(batch.keys):
        assert parts[key].lengths().tolist() == [1] * 33
        assert parts[key].values().tolist() == batch.ids[:, column].tolist()
    at = 0
    for number, key in enumerate(batch.ragged.keys):
        lengths = batch.ragged.lengths[number]
        assert parts[key].lengths().tolist() == lengths.tolist()
        assert parts[key].values().tolist() == batch.ragged.values[at : at + int(lengths.sum())].tolist()
        at += int(lengths.sum())


def test_kjt_without_multi_hot_features():
    """The common case takes the short way and must be the same."""
    batch = fake_batch(fake_schema([10, 1000]), 5, seed=1)
    kjt = batch.kjt()
    assert kjt.keys() == ["C1", "C2"]
    assert kjt.values().tolist() == batch.ids.t().flatten().tolist()


def test_kjt_with_multi_hot_features_alone():
    """Nothing guarantees a one-hot column."""
    batch = fake_batch(fake_schema([], multi_hot=[50]), 5, seed=1)
    assert batch.kjt().keys() == ["M1"]
    assert batch.kjt().values().tolist() == batch.ragged.values.tolist()


def test_ids_are_int64():
    """Hashed ids do not fit int32."""
    assert fake_batch(fake_schema([10]), 5, seed=1).kjt().values().dtype == torch.int64
