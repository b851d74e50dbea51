"""ROBE: chunks of one shared array, found by hash and signed."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.hashing import make_salts
from slimtab.tables.parts.windows import read_row_windows, read_windows
from slimtab.tables.robe import Robe, RobeConfig
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows

FEATURES = [Feature("a", 5000), Feature("b", 5000), Feature("c", 40)]
MASK = 2**64 - 1


def build(blocks=200, block=2, features=FEATURES, dim=8, make_rows=PlainRows):
    torch.manual_seed(0)
    return Robe(RobeConfig(blocks, block), features, dim, make_rows, 1.0)


def mix(x):
    """SplitMix64's finalizer on Python's own integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def reference(table, name, number, dim, block):
    """Read an id float by float, as the paper writes it; returns the vector and the places read."""
    array, chunks = table.rows.values().flatten().numpy(), dim // block
    words = (chunks + 1) // 2 + (dim + 63) // 64
    mixed = [mix(number ^ (int(salt) & MASK)) for salt in make_salts([name], words)[0]]
    halves = [half for word in mixed for half in (word & 0xFFFFFFFF, word >> 32)]
    vector, places = np.empty(dim, np.float32), np.empty(dim, np.int64)
    for i in range(dim):
        half = (halves[i // block] + 2**31) % 2**32
        places[i] = half * (len(array) - block + 1) // 2**32 + i % block
        bit = halves[2 * ((chunks + 1) // 2) + i // 32] >> (31 - i % 32) & 1
        vector[i] = -array[places[i]] if bit else array[places[i]]
    return vector, places


@pytest.mark.parametrize(("dim", "block"), [(8, 2), (8, 8), (12, 4), (8, 1), (72, 18), (128, 32)])
def test_equals_the_paper_float_by_float(dim, block):
    """Chunk starts, wrap of words and the bit of each sign, for ids beyond 2^24 and 2^31 too."""
    table = build(50, block, dim=dim)
    ids = torch.tensor([0, 1, 4999, 2**24 + 1, 2**31 + 7, 2**62 + 3])
    for slot, feature in enumerate(FEATURES):
        expected = [reference(table, feature.name, int(x), dim, block)[0] for x in ids]
        got = table(ids, torch.full_like(ids, slot)).detach()
        np.testing.assert_array_equal(got.numpy(), np.stack(expected))
        np.testing.assert_array_equal(table.freeze()(ids, torch.full_like(ids, slot)).numpy(), got.numpy())


def test_gradient_is_added_up_over_all_readers():
    """A float of the array gets the signed gradient of every chunk that covers it."""
    table = build(30, 4)
    ids, slot = torch.arange(300), torch.ones(300, dtype=torch.int64)
    weight = torch.randn(300, 8)
    (table(ids, slot) * weight).sum().backward()
    array = table.rows.values().flatten()
    expected = np.zeros(120)
    for x in range(300):
        vector, places = reference(table, "b", x, 8, 4)
        np.add.at(expected, places, weight[x].numpy() * np.sign(vector) * np.sign(array.numpy()[places]))
    np.testing.assert_allclose(table.rows.weight.grad.flatten(), expected, rtol=1e-4, atol=1e-4)


def test_chunks_start_anywhere_and_reach_both_ends():
    """Aligned starts would be a hash table of blocks; here neighbours overlap in part."""
    table = build(10, 4)
    starts, _ = table.hashes(torch.arange(5000), torch.zeros(5000, dtype=torch.int64))
    assert starts.unique().tolist() == list(range(40 - 4 + 1))
    counts = torch.bincount(starts).float()
    assert float(counts.std() / counts.mean()) < 0.15  # 37 places, 270 each: 0.06 by chance


def test_signs_are_fair_and_differ_between_chunks_features_and_coordinates():
    """They make collisions cancel on average: half of them −1, and no two columns alike."""
    table = build(dim=72, block=18)
    ids = torch.arange(5000)
    signs = torch.cat([table.hashes(ids, torch.full_like(ids, slot))[1] for slot in (0, 1)], dim=1)
    assert signs.unique().tolist() == [-1.0, 1.0]
    correlation = signs.T @ signs / 5000 - torch.eye(144)
    assert float(correlation.abs().max()) < 0.08
    assert float(signs.mean(dim=0).abs().max()) < 0.08


def test_the_same_id_of_two_features_reads_other_places():
    """Salts are by feature and chunk: without, country 5 would be device 5."""
    table, ids = build(5000, 2), torch.arange(5000)
    a, b = (table.hashes(ids, torch.full_like(ids, slot))[0] for slot in (0, 1))
    assert int((a == b).sum()) < 20  # 2 expected of 20 000 by chance
    columns = a.view(-1, 4)
    assert int((columns[:, 0] == columns[:, 1]).sum()) < 10


def test_adding_a_feature_moves_nobody_elses_chunks():
    """Salts follow names, and the array is one for all."""
    wide = build(features=[Feature("new", 50), *FEATURES])
    ids = torch.arange(1000)
    assert torch.equal(wide(ids, torch.full_like(ids, 1)), build()(ids, torch.full_like(ids, 0)))


def test_no_two_ids_of_a_small_array_are_alike():
    """400 floats, 10 000 vectors: chunks coincide, whole vectors do not."""
    table = build()
    vectors = torch.cat([table(torch.arange(5000), torch.full((5000,), slot)) for slot in (0, 1)])
    assert len(vectors.unique(dim=0)) == 10_000


def test_a_step_moves_only_what_the_batch_read():
    """Dense Adam would go on moving every float on old momentum; the rows of other methods rest."""
    table = build(500, 4, make_rows=FusedRowsFactory(RowOptimizer(lr=0.1)))
    before = table.rows.values()
    table(torch.arange(3), torch.zeros(3, dtype=torch.int64)).sum().backward()
    table.rows.step()
    moved = (table.rows.values() != before).flatten()
    starts, _ = table.hashes(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    assert moved.nonzero().flatten().tolist() == sorted({int(s) + j for s in starts for j in range(4)})


def test_the_array_has_the_length_the_budget_pays_for():
    """M is exact up to a block: 8 bytes here."""
    config = RobeConfig.for_budget(FEATURES, 8, 10_007)
    assert config.chunk(8) == 2
    table = Robe(config, FEATURES, 8, PlainRows, 0.1)
    assert 10_007 - 8 < table.serve_bytes() <= 10_007


def test_block_must_divide_the_width():
    """A chunk that hangs over has no coordinates to fill."""
    with pytest.raises(SlimtabError, match=r"chunks of 3 floats.*width 8"):
        RobeConfig.for_budget(FEATURES, 8, 10_000, block=3)
    with pytest.raises(SlimtabError, match="set block to 1 or more"):
        RobeConfig.for_budget(FEATURES, 8, 10_000, block=-1)


@pytest.mark.parametrize("width", [1, 3])
def test_windows_of_rows_are_windows_of_the_flat_array(width):
    """Every place, the last one included, where there is no next row to read."""
    rows = PlainRows(5, width, 1.0)
    starts = torch.arange(4 * width + 1)
    expected = read_windows(rows.values().flatten(), starts, width)
    assert torch.equal(read_row_windows(rows, starts), expected)
    assert torch.equal(expected, torch.stack([rows.values().flatten()[s : s + width] for s in starts]))


def test_stats():
    """How crowded the array is."""
    assert build().stats() == {"floats": 400, "shared_by": 10_040 * 8 / 400}
