"""Rows as an ordinary parameter."""

import torch

from slimtab.tables.rows.plain import PlainRows


def test_they_are_an_ordinary_parameter():
    """For code that brings its own optimizer."""
    rows = PlainRows(10, 3, 0.1)
    rows(torch.tensor([1, 1, 4])).sum().backward()
    assert rows.weight.grad[1].tolist() == [2.0, 2.0, 2.0]
    assert rows.weight.grad[0].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(rows.values(), rows.weight.detach())


def test_rows_are_copied():
    """The parameter stays the one the optimizer knows."""
    rows = PlainRows(10, 3, 0.1)
    weight, before = rows.weight, rows.values()
    rows.copy_rows(torch.tensor([1, 2]), torch.tensor([8, 9]))
    assert rows.weight is weight
    assert torch.equal(rows.values()[8:], before[1:3])
    assert torch.equal(rows.values()[:8], before[:8])


def test_rows_take_values():
    source, other = PlainRows(10, 3, 0.1), PlainRows(2, 3, 0.1)
    other.take(source, torch.tensor([7, 2]))
    assert torch.equal(other.values(), source.values()[[7, 2]])


def test_train_bytes_are_the_weights_alone():
    assert PlainRows(100, 8, 0.1).train_bytes() == 4 * 100 * 8
