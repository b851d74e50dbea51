"""Ways to code a feature: what they promise is what is served."""

import pytest
import torch

from slimtab.schema import Feature
from slimtab.shrinking.vectors import Vectors
from slimtab.shrinking.ways import Common, Fits, all_ways
from slimtab.tables.fitted.base import empty_table

DIM, SIZES = 8, (700, 40, 300)
WAYS = {way.name: way for way in all_ways(DIM)}


@pytest.fixture(scope="module")
def fits():
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(ids, DIM, generator=generator) * (1 + slot) for slot, ids in enumerate(SIZES)]
    return Fits(Vectors([Feature(f"C{slot}", ids) for slot, ids in enumerate(SIZES)], tables), seed=0)


def read(table, slots):
    """The vectors of each of ``slots`` from a table of all of them."""
    ids = [torch.arange(SIZES[slot]) for slot in slots]
    slot = torch.cat([torch.full_like(own, place) for place, own in enumerate(ids)])
    return torch.split(table(torch.cat(ids), slot), list(map(len, ids)))


def worth(way):
    return way.nbytes(SIZES[0], DIM) + way.shared <= 4 * DIM * SIZES[0]


@pytest.mark.parametrize("way", filter(worth, WAYS.values()), ids=lambda way: way.name)
def test_what_was_measured_is_what_is_served(way, fits):
    """Common codewords are fitted to those that share them: here to all, as when they are measured."""
    slots = [0, 1, 2] if isinstance(way, Common) else [0]
    method, config, table, shares = way.served(fits, slots, [way] * len(slots))
    for vectors, slot in zip(read(table, slots), slots, strict=True):
        torch.testing.assert_close(vectors, way.vectors(fits, slot), rtol=0, atol=0.02)
    taken = sum(way.nbytes(SIZES[slot], DIM) for slot in slots) + way.shared
    assert 0 <= table.serve_bytes() - taken <= 8
    assert sum(shares) == pytest.approx(taken)
    again = empty_table(method, config, [fits.vectors.features[slot] for slot in slots], DIM)
    again.load_state_dict(table.state_dict())
    ids, slot = torch.tensor([0, 30]), torch.zeros(2, dtype=torch.int64)
    torch.testing.assert_close(again(ids, slot), table(ids, slot), rtol=0, atol=0)


def test_features_with_codewords_of_their_own_stand_together(fits):
    ways = [WAYS["own rq, 2 times 6 bits"], WAYS["own rq, 1 times 4 bits"]]
    assert ways[0].family == ways[1].family
    slots = [2, 1]
    table = ways[0].served(fits, slots, ways).table
    for vectors, slot, way in zip(read(table, slots), slots, ways, strict=True):
        torch.testing.assert_close(vectors, way.vectors(fits, slot), rtol=0, atol=1e-2)


def test_other_ways_stand_alone():
    families = [way.family for name, way in WAYS.items() if not name.startswith("own")]
    assert len(set(families)) == len(families)


def test_more_bytes_lose_less(fits):
    """Within a kind, and over bits of steps."""
    whole = fits.vectors.select([0]).all()
    for names in (
        [f"own rq, {levels} times 4 bits" for levels in (1, 2, 3, 4)],
        [f"rq, {bits} bits" for bits in (8, 16, 24)],
        ["int2", "int4", "int8", "full"],
    ):
        lost = [float((WAYS[name].vectors(fits, 0) - whole).square().sum()) for name in names]
        assert lost == sorted(lost, reverse=True)
        assert len(set(lost)) == len(lost)
