"""The full table: one row per id, and nothing else."""

import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.full import Full, FullConfig
from slimtab.tables.rows.plain import PlainRows


def test_every_id_owns_a_row():
    """Neighbouring features stand one after another; their edges are where an off-by-one would show."""
    features = [Feature("a", 3), Feature("b", 1), Feature("c", 5)]
    table = Full(FullConfig(), features, 2, PlainRows, 1.0)
    ids = torch.tensor([0, 1, 2, 0, 0, 1, 2, 3, 4])
    slot = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])
    assert torch.equal(table(ids, slot), table.rows.values())
    assert table.stats() == {"rows": 9, "ids_per_row": 1.0}


def test_a_gradient_moves_its_own_row_only():
    """The yardstick has no collisions."""
    table = Full(FullConfig(), [Feature("a", 3), Feature("b", 4)], 2, PlainRows, 1.0)
    table(torch.tensor([2, 1]), torch.tensor([0, 1])).sum().backward()
    assert table.rows.weight.grad.nonzero()[:, 0].unique().tolist() == [2, 4]


def test_hashed_ids_have_no_full_table():
    """2^63 rows: say so, and say what to do."""
    with pytest.raises(SlimtabError, match=r"'b' has hashed ids.*choose hash or unified"):
        Full(FullConfig(), [Feature("a", 3), Feature("b", 4, "hash")], 2, PlainRows, 1.0)
