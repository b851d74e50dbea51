"""Every method of shrinking: never above its budget, near to the vectors, rebuilt from disk."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.shrinking.methods import METHODS
from slimtab.shrinking.row_steps import code_rows
from slimtab.shrinking.shrink import shrink
from slimtab.shrinking.vectors import Vectors
from slimtab.tables.fitted.base import empty_table
from slimtab.tables.parts.kmeans import nearest

SIZES = {"user": 3000, "item": 900, "tiny": 7}


def tables(dim=16, seed=0):
    """Vectors around a few centres, as trained ones are, of unlike lengths."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(30, dim, generator=generator)
    found = {}
    for name, rows in SIZES.items():
        own = torch.randint(30, (rows,), generator=generator)
        length = torch.rand(rows, 1, generator=generator) * 0.1
        found[name] = (centres[own] + 0.3 * torch.randn(rows, dim, generator=generator)) * length
    return found


def error(shrunk, given, counts=None):
    apart = square = 0.0
    for name, table in given.items():
        weight = torch.ones(len(table)) if counts is None else counts[name]
        apart += float(weight @ (shrunk.vectors(name) - table).square().sum(1))
        square += float(weight @ table.square().sum(1))
    return apart / square


# What share of the squares of these vectors each may lose at 15 % (the integers: at their own size).
ERRORS = {
    "int8": 2e-5,
    "int4": 0.005,
    "int2": 0.09,
    "rq": 0.03,
    "pq": 0.05,
    "binary": 0.02,
    "dedup": 0.4,
    "tt": 0.99,
    "prune": 0.6,
}


@pytest.mark.parametrize("name", METHODS)
class TestMethods:
    def test_is_near_and_within_the_budget(self, name):
        given = tables()
        shrunk = shrink(given, name, None if METHODS[name].sized else "15%")
        assert METHODS[name].sized or shrunk.serve_bytes <= 0.15 * shrunk.full_bytes
        assert error(shrunk, given) < ERRORS[name]

    def test_is_rebuilt_from_settings_and_tensors(self, name):
        shrunk = shrink(tables(), name, None if METHODS[name].sized else "15%")
        (group,) = shrunk.groups
        again = empty_table(group.method, group.config, group.features, group.dim)
        again.load_state_dict(group.table.state_dict())
        for slot, feature in enumerate(group.features):
            ids = torch.arange(feature.num_ids)
            assert torch.equal(again(ids, torch.full_like(ids, slot)), shrunk.vectors(feature.name))

    def test_a_budget_too_small_is_told_the_smallest(self, name):
        with pytest.raises(SlimtabError, match=f"{name} cannot fit 100 B .*smallest size here is"):
            shrink(tables(), name, 100)

    def test_the_same_seed_gives_the_same_codes(self, name):
        budget = None if METHODS[name].sized else "15%"
        one, other = (shrink(tables(), name, budget, seed=3) for _ in range(2))
        assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in one.state_dict().items())

    def test_bytes_by_table_add_up(self, name):
        shrunk = shrink(tables(), name, None if METHODS[name].sized else "15%")
        assert sum(figures["bytes"] for figures in shrunk.figures.values()) == shrunk.serve_bytes


@pytest.mark.parametrize("name", ["rq", "pq", "binary", "dedup", "prune"])
def test_frequent_rows_are_nearer_when_counts_are_known(name):
    """That is what frequencies are for; rows of all tables compete."""
    given = tables()
    counts = {
        key: torch.cat([torch.full((30,), 1000.0), torch.ones(10_000)])[: len(t)] for key, t in given.items()
    }
    budget = "13%" if name == "binary" else "6%"
    with_counts, without = (shrink(given, name, budget, counts=c) for c in (counts, None))
    assert error(with_counts, given, counts) < 0.9 * error(without, given, counts)


def test_a_step_of_eight_bits_is_as_fine_as_the_row():
    """Half a step; and half precision makes steps a little wider, in small rows by more."""
    values = torch.randn(500, 16) * torch.logspace(-4, 1, 500)[:, None]
    codes, lines = code_rows(values, 8)
    low, step = lines.float().unbind(1)
    apart = (codes * step[:, None] + low[:, None] - values).abs().amax(1)
    span = values.amax(1) - values.amin(1)
    assert (apart <= 0.501 * step + 1e-7).all()
    assert (step <= 1.01 * span / 255 + 1.3e-7).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_fitted_lines_beat_those_from_end_to_end(bits):
    """Levels from the least to the greatest value waste themselves on the ends."""
    values = torch.randn(2000, 16)
    codes, lines = code_rows(values, bits)
    fitted = codes * lines[:, 1:].float() + lines[:, :1].float()
    low, high = values.aminmax(dim=1, keepdim=True)
    step = (high - low) / ((1 << bits) - 1)
    plain = ((values - low) / step).round() * step + low
    assert (fitted - values).square().mean() < (0.95 if bits == 4 else 0.75) * (
        plain - values
    ).square().mean()
    assert ((fitted - values).square().sum(1) <= (plain - values).square().sum(1) + 1e-3).all()


def test_rows_all_alike_are_exact():
    """A row of one value has no steps to divide by."""
    values = torch.tensor([[0.0] * 16, [0.5] * 16])
    for bits in (2, 4, 8):
        codes, lines = code_rows(values, bits)
        read = codes * lines[:, 1:].float() + lines[:, :1].float()
        torch.testing.assert_close(read, values, rtol=1e-4, atol=1e-7)


def test_a_sample_stands_for_all_rows():
    """Rows that weigh most are in it, and sums over it are as over all."""
    table, counts = torch.randn(20_000, 4), torch.ones(20_000)
    counts[7] = 1e9
    vectors = Vectors([Feature("a", 20_000)], [table], counts)
    sample, weights = vectors.sample(2000, 0)
    assert 1500 < len(sample) < 2500
    assert int(nearest(table[7:8], sample)[0]) in (sample == table[7]).all(1).nonzero()
    assert float(weights.sum()) == pytest.approx(float(vectors.weights.sum()), rel=0.05)


def test_codewords_of_rq_are_fitted_level_by_level():
    """The first level is plain weighted k-means; NumPy finds the same codes for its codewords."""
    given = {"user": tables()["user"]}
    (group,) = shrink(given, "rq", "2.7%").groups
    assert group.config["levels"] == (6,)
    words = group.table.codewords.float().numpy()
    own = given["user"].numpy()
    codes = ((own[:, None] - words[None]) ** 2).sum(2).argmin(1)
    np.testing.assert_allclose(
        group.table(torch.arange(3000), torch.zeros(3000, dtype=torch.int64)).numpy(), words[codes], atol=1e-6
    )
