"""Collisions counted over what a frozen table answers."""

import torch

from slimtab.tables.base import FrozenTable
from slimtab.tables.parts.collisions import collision_rate


class Given(FrozenTable):
    """Vectors by id, the same for all features but for their sign."""

    def __init__(self, vectors):
        super().__init__()
        self.register_buffer("vectors", torch.tensor(vectors))

    def forward(self, ids, slot):
        return self.vectors[ids] * (1 - 2 * slot[:, None])


def test_every_id_of_an_equal_pair_or_triple_counts():
    """Three alike and two alike among seven; the same coordinates in another order are another vector."""
    table = Given([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [0.5, 0.5], [0.5, 0.5], [3.0, 3.0]])
    assert collision_rate(table, 0, 7) == 5 / 7
    assert collision_rate(table, 0, 1) == 0


def test_both_zeros_are_one():
    """No network tells −0 from 0."""
    assert collision_rate(Given([[0.0], [-0.0], [1.0]]), 0, 3) == 2 / 3


def test_no_false_ones_among_many():
    """A quarter of a million neighbouring floats, whose bits differ in the last places only."""
    vectors = torch.arange(1, 2**18 + 1).float().view(-1, 1) / 2**18
    assert collision_rate(Given(torch.cat([vectors, vectors.flip(0)], 1).tolist()), 0, 2**18) == 0
