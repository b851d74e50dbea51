"""TT: trains of three cores, the rank a budget pays for, and blocks of pairs that share a middle matrix."""

import math

import numpy as np
import pytest
import torch

from slimtab.plan import CRITEO_KAGGLE
from slimtab.schema import Feature
from slimtab.tables.parts.blocks import make_blocks
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.tt import TT, TTConfig, largest_rank, split_ids, split_width, useful_rank

AVAZU = (
    240, 7, 7, 4737, 7745, 26, 8552, 559, 36, 2686408, 6729486,
    8251, 5, 4, 2626, 8, 9, 435, 4, 68, 172, 60,
)  # fmt: skip
CRITEO_2CORE = (
    1460, 570, 1545892, 668221, 305, 24, 12399, 633, 3, 74829, 5557, 1518203, 3194,
    27, 13883, 1231446, 10, 5310, 2150, 4, 1437677, 18, 15, 157462, 103, 99816,
)  # fmt: skip
FEATURES = [Feature("a", 1000), Feature("b", 3), Feature("c", 777)]


def build(rank=5, features=FEATURES, dim=12, std=0.1):
    torch.manual_seed(0)
    return TT(TTConfig(rank), features, dim, PlainRows, std)


def lookup(table, slot, count):
    return table(torch.arange(count), torch.full((count,), slot))


def shifted(x, num_ids):
    """Digits of one id: the second shifted by the first, the third by the second."""
    n1, n2, n3 = split_ids(num_ids)
    a, b, c = x % n1, x // n1 % n2, x // (n1 * n2)
    return a, (a + b) % n2, (b + c) % n3


def reference(table, slot, x):
    """One vector by the formula, in double precision, from the feature's own part of each core."""
    before = [split_ids(f.num_ids) for f in FEATURES[:slot] if f.name != "b"]
    d1, d2, d3 = split_width(table.dim)
    digits = shifted(x, FEATURES[slot].num_ids)
    cores = [
        core[digit + sum(split[k] for split in before)].detach().double().numpy()
        for k, (core, digit) in enumerate(zip(table.cores, digits, strict=True))
    ]
    rank = table.rank
    joined = cores[0].reshape(d1, rank) @ cores[1].reshape(rank, d2 * rank)
    return (joined.reshape(d1 * d2, rank) @ cores[2].reshape(rank, d3)).ravel()


@pytest.mark.parametrize("dim", [12, 16, 7])
def test_equals_the_product_of_the_cores_id_by_id(dim):
    """Pairs, blocks and batches of products give what three small matrix products give; frozen too."""
    table = build(dim=dim)
    assert table.digits.whole == [False, True, False]
    for slot in (0, 2):
        count = FEATURES[slot].num_ids
        expected = np.stack([reference(table, slot, x) for x in range(count)])
        np.testing.assert_allclose(lookup(table, slot, count).detach(), expected, rtol=1e-4, atol=1e-6)
        frozen = table.freeze()(torch.arange(count), torch.full((count,), slot))
        np.testing.assert_allclose(frozen, expected, rtol=1e-4, atol=1e-6)


def test_gradients_equal_those_of_the_plain_product():
    """Ids that share digits, and an id that stands in the batch twice, add up."""
    table = build()
    ids = torch.randint(0, 777, (400,))
    weight = torch.randn(400, 12)
    (table(ids, torch.full_like(ids, 2)) * weight).sum().backward()
    got = [core.grad.clone() for core in table.cores]
    table.zero_grad()
    first, middle, third = table.digits(ids, torch.full_like(ids, 2))
    d1, d2, d3 = split_width(12)
    one, two, three = table.cores
    left, right = one[first].view(-1, d1, 5), three[third].view(-1, 5, d3)
    plain = torch.einsum("nar,nrbs,nsc->nabc", left, two[middle].view(-1, 5, d2, 5), right)
    (plain.flatten(1) * weight).sum().backward()
    for own, core in zip(got, table.cores, strict=True):
        torch.testing.assert_close(own, core.grad, rtol=1e-4, atol=1e-5)


def digits_of(table, slot, ids):
    return torch.stack(table.digits(ids, torch.full_like(ids, slot)), dim=1)


def test_every_id_has_digits_of_its_own():
    """The shifts must not merge two ids, nor leave the feature's part of a core."""
    table = build()
    for slot in (0, 2):
        digits = digits_of(table, slot, torch.arange(FEATURES[slot].num_ids))
        assert len(digits.unique(dim=0)) == FEATURES[slot].num_ids
        for column, rows in zip(digits.T, table.digits.cores, strict=True):
            assert 0 <= int(column.min()) <= int(column.max()) < rows
    one, other = digits_of(table, 0, torch.arange(1000)), digits_of(table, 2, torch.arange(777))
    assert bool((one.amax(0) < other.amin(0)).all())


@pytest.mark.parametrize("num_ids", [1000, 777, 2278, 18358, 2**17])
def test_frequent_ids_share_one_digit_at_most(num_ids):
    """Ids are sorted by frequency; plain digits send the first n1 · n2 of them through one third matrix."""
    n1, n2, _ = split_ids(num_ids)
    table = build(features=[Feature("a", num_ids)])
    digits = digits_of(table, 0, torch.arange(n1 * n2))
    for columns in ([0, 1], [0, 2], [1, 2]):
        assert len(digits[:, columns].unique(dim=0)) == n1 * n2


def test_digits_of_large_ids():
    """n1 · n2 · n3 beyond 2^31, in int64."""
    with torch.device("meta"):
        table = TT(TTConfig(4), [Feature("a", 2**36)], 8, PlainRows, 0.1)
    n1, n2, n3 = split_ids(2**36)
    assert table.digits.cores == [n1, n2, n3]
    small = TT(TTConfig(1), [Feature("a", 2**24)], 8, PlainRows, 0.1)
    x = 2**24 - 3
    got = tuple(int(part) for part in small.digits(torch.tensor([x]), torch.tensor([0])))
    assert got == shifted(x, 2**24)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 27, 28, 1000, 777, 10131227, 2**36, 10**9 + 7])
def test_three_numbers_hold_all_ids(n):
    """Ascending, nearly equal, and no smaller last one would do."""
    a, b, c = split_ids(n)
    assert a <= b <= c
    assert a * b * c >= n
    assert a * b * (c - 1) < n or a * (b - 1) * c < n or (a - 1) * b * c < n
    assert c <= a + 3 + a // 8


@pytest.mark.parametrize(
    ("dim", "split"),
    [(16, (2, 2, 4)), (32, (2, 4, 4)), (64, (4, 4, 4)), (8, (2, 2, 2)), (10, (1, 2, 5)), (7, (1, 1, 7))],
)
def test_widths_are_split_nearly_equally(dim, split):
    """As the comparative study splits 16, 32 and 64."""
    assert split_width(dim) == split


@pytest.mark.parametrize(
    ("sizes", "share", "rank"),
    [
        *[(CRITEO_KAGGLE, *pair) for pair in [(0.5, 376), (0.2, 230), (0.1, 157), (0.01, 46), (0.001, 13)]],
        *[(AVAZU, *pair) for pair in [(0.5, 336), (0.1, 147), (0.01, 40), (0.001, 11)]],
        *[(CRITEO_2CORE, *pair) for pair in [(0.5, 209), (0.1, 84), (0.01, 24), (0.001, 6)]],
    ],
)
def test_known_ranks(sizes, share, rank):
    """The derived settings of the comparative study (Zhang et al., VLDB 2024): no cap binds at these."""
    assert largest_rank(sizes, 16, int(share * 16 * sum(sizes))) == rank
    features = [Feature(f"C{number}", size) for number, size in enumerate(sizes)]
    assert TTConfig.for_budget(features, 16, int(share * 64 * sum(sizes))).rank == rank


def test_useless_ranks_are_not_paid_for():
    """G1[i1] has n1 rows of d1: a joint wider than n1 · d1 holds nothing more."""
    features = [Feature("a", 8000)]  # 20 · 20 · 20, d1 = 2
    wasteful = largest_rank([8000], 16, int(0.99 * 16 * 8000))
    assert wasteful > 40
    assert useful_rank([8000], 16, wasteful) == 40
    assert TTConfig.for_budget(features, 16, int(0.99 * 64 * 8000)).rank == 40
    assert TTConfig.for_budget(features, 16, 64 * 8000).rank == 0


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_start_values_count_the_rank(rank):
    """A train is a sum of R² products: without the rank the deviation would grow with R."""
    table = build(rank, [Feature("a", 60_000)], 16, 0.01)
    vectors = lookup(table, 0, 60_000).detach()
    assert float(vectors.std()) == pytest.approx(0.01, rel=0.25 if rank == 1 else 0.1)


def test_small_features_and_large_budgets_stay_full():
    """Nothing is gained by a train longer than the table."""
    table = build(rank=0)
    assert table.serve_bytes() == 4 * 12 * 1780
    assert torch.equal(lookup(table, 2, 777), table.rows.values()[1003:])
    assert not table.row_like()
    assert torch.equal(lookup(build(), 1, 3), build().rows.values())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_blocks_keep_matrices_apart(exact, size):
    """Every item has a place of its own, in a block of its own matrix, within the blocks there are."""
    numbers = torch.randint(0, 9, (57,)).sort().values
    numbers = numbers[numbers != 4]
    blocks = make_blocks(numbers, 9, size, exact)
    assert len(blocks.place.unique()) == len(numbers)
    assert torch.equal(blocks.matrix[blocks.place // size], numbers)
    needed = sum(math.ceil(count / size) for count in torch.bincount(numbers).tolist())
    assert len(blocks.matrix) == needed if exact else len(blocks.matrix) >= needed
    spread = blocks.spread(torch.arange(1, len(numbers) + 1))
    assert torch.equal(spread.flatten()[blocks.place], torch.arange(1, len(numbers) + 1))
    assert int((spread > 0).sum()) == len(numbers)


def test_bytes_are_split_by_what_features_own():
    """Cores differ in length by feature."""
    table = build()
    by_feature = table.bytes_by_feature()
    assert sum(by_feature) == table.serve_bytes()
    assert by_feature[1] == 4 * 12 * 3
    assert table.stats() == {"rank": 5, "full_features": 1 / 3}
