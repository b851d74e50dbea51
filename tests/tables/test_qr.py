"""QR: quotient and remainder tables, more digits, and the collision number that a budget chooses."""

import itertools
import time

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.plan import CRITEO_KAGGLE
from slimtab.schema import Feature
from slimtab.tables.qr import QR, QRConfig, _Digits
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows

AVAZU = (
    240, 7, 7, 4737, 7745, 26, 8552, 559, 36, 2686408, 6729486, 8251, 5, 4, 2626, 8, 9, 435, 4, 68, 172, 60,
)  # fmt: skip
CRITEO_2CORE = (
    1460, 570, 1545892, 668221, 305, 24, 12399, 633, 3, 74829, 5557, 1518203, 3194,
    27, 13883, 1231446, 10, 5310, 2150, 4, 1437677, 18, 15, 157462, 103, 99816,
)  # fmt: skip
FEATURES = [Feature("a", 1000), Feature("b", 3), Feature("c", 777), Feature("d", 12)]
SETTINGS = list(itertools.product(["mult", "add", "concat"], [2, 3, 4], [1.3, 4.0, 4.7]))


def build(mode="mult", partitions=2, collisions=4.0, features=FEATURES, dim=12, make_rows=PlainRows, std=0.1):
    torch.manual_seed(0)
    return QR(QRConfig(collisions, mode, partitions), features, dim, make_rows, std)


def of(sizes):
    return [Feature(f"C{number}", size) for number, size in enumerate(sizes)]


def lookup(table, slot, count):
    return table(torch.arange(count), torch.full((count,), slot))


def reference(table):
    """Every vector, id by id: the digits of the id, the row of each, and what the mode makes of them."""
    config, rows = table.config, table.rows.values().numpy()
    k, c, width = config.partitions, config.collisions, table.rows.width
    concat, digits = config.mode == "concat", int(np.ceil(c))
    radices = [[int(np.ceil(f.num_ids / np.prod([c] * (k - 1))))] + [digits] * (k - 1) for f in FEATURES]
    full = [sum(r) >= f.num_ids * (k if concat else 1) for r, f in zip(radices, FEATURES, strict=True)]
    start = int(not concat and any(full) and not all(full))
    first = [[0] * len(FEATURES) for _ in range(k)]
    for part in [*range(1, k), 0]:
        for f, feature in enumerate(FEATURES):
            first[part][f] = start
            if full[f]:
                start += feature.num_ids if part == 0 or concat else 0
            else:
                start += radices[f][part]
    assert start == len(rows)
    vectors = []
    for f, feature in enumerate(FEATURES):
        made = np.empty((feature.num_ids, k * width if concat else width), np.float32)
        for x in range(feature.num_ids):
            if full[f]:
                parts = [rows[first[part][f] + x] for part in range(k if concat else 1)]
            else:
                tier, q = divmod(x, radices[f][0])
                if tier % 2:
                    q = radices[f][0] - 1 - q
                parts = [rows[first[0][f] + q]]
                for part in range(1, k):
                    tier, digit = divmod(tier, digits)
                    parts.append(rows[first[part][f] + digit])
            if concat:
                made[x] = np.concatenate(parts)
            else:
                made[x] = parts[0]
                for part in parts[1:]:
                    made[x] = made[x] * (1 + part) if config.mode == "mult" else made[x] + part
        vectors.append(made)
    return vectors


@pytest.mark.parametrize(("mode", "partitions", "collisions"), SETTINGS)
def test_equals_the_formula_id_by_id(mode, partitions, collisions):
    """Digits in a mixed radix, rows stacked over features, full features untouched by the second part."""
    table = build(mode, partitions, collisions)
    for slot, expected in enumerate(reference(table)):
        got = lookup(table, slot, len(expected)).detach()
        np.testing.assert_array_equal(got.numpy(), expected)
        assert torch.equal(
            table.freeze()(torch.arange(len(expected)), torch.full((len(expected),), slot)), got
        )


@pytest.mark.parametrize(("mode", "partitions", "collisions"), SETTINGS)
def test_every_id_has_a_vector_of_its_own(mode, partitions, collisions):
    """Complementary partitions: all tuples of rows differ, so no two ids of a feature are merged."""
    table = build(mode, partitions, collisions)
    for slot, feature in enumerate(FEATURES):
        ids = torch.arange(feature.num_ids)
        tuples = torch.stack(table.digits(ids, torch.full_like(ids, slot)), dim=1)
        assert len(tuples.unique(dim=0)) == feature.num_ids
        assert len(lookup(table, slot, feature.num_ids).unique(dim=0)) == feature.num_ids


@pytest.mark.parametrize(("partitions", "collisions"), [(2, 4.0), (2, 1.3), (3, 4.7)])
def test_frequent_ids_share_no_first_row(partitions, collisions):
    """Ids are sorted by frequency; x // c as the first row would put the hottest c of them into one."""
    table = build(partitions=partitions, collisions=collisions)
    rows = table.digits.first_rows_of[0]
    first = table.digits(torch.arange(1000), torch.zeros(1000, dtype=torch.int64))[0]
    assert len(first[:rows].unique()) == rows
    shared = torch.bincount(first - table.digits.behind, minlength=rows)
    assert int(shared.max()) - int(shared.min()) <= 1


def test_a_last_turn_that_is_not_full_falls_on_rare_ids():
    """At 1.3 ids to a row, the 230 rarest share with the 230 next rarest, not with the most frequent."""
    table = build(collisions=1.3)
    first = table.digits(torch.arange(1000), torch.zeros(1000, dtype=torch.int64))[0]
    hottest = first[:500]
    assert not torch.isin(first[table.digits.first_rows_of[0] :], hottest).any()


def test_ids_beyond_two_to_the_24():
    """Division in float32 is wrong there: neighbours would be merged."""
    digits = _Digits(QRConfig(100.0, "mult", 2), np.array([2**33]))
    ids = torch.arange(2**33 - 1000, 2**33)
    pairs = torch.stack(digits(ids, torch.zeros_like(ids)), dim=1)
    assert len(pairs.unique(dim=0)) == 1000
    assert int(pairs.max()) < digits.num_rows
    x, rows = 2**33 - 7, digits.first_rows_of[0]
    tier, q = divmod(x, rows)
    pair = [int(part) for part in digits(torch.tensor([x]), torch.tensor([0]))]
    assert pair == [digits.behind + (q if tier % 2 == 0 else rows - 1 - q), tier]


@pytest.mark.parametrize("mode", ["mult", "add", "concat"])
@pytest.mark.parametrize("partitions", [2, 3])
def test_start_values(mode, partitions):
    """A product of factors of the full deviation would start a hundred times too small: nearly dead."""
    features = [Feature("a", 40_000), Feature("b", 12)]
    table = build(mode, partitions, 30.0, features, dim=12, std=0.01)
    for slot, feature in enumerate(features):
        vectors = lookup(table, slot, feature.num_ids).detach()
        assert float(vectors.std()) == pytest.approx(0.01, rel=0.1 if slot == 0 else 0.3)
        assert abs(float(vectors.mean())) < 0.003


@pytest.mark.parametrize("mode", ["mult", "add", "concat"])
def test_gradient_of_both_parts(mode):
    """Each row collects over all ids that read it; the stand-in row of full features collects nothing."""
    table = build(mode, collisions=5.0)
    table(torch.arange(12), torch.full((12,), 3)).sum().backward()  # d is full: 12 ids, 3 + 5 rows is less
    weight = torch.randn(1000, 12)
    table.rows.weight.grad = None
    (lookup(table, 0, 1000) * weight).sum().backward()
    q, r = table.digits(torch.arange(1000), torch.zeros(1000, dtype=torch.int64))
    rows = table.rows.values()
    expected = torch.zeros_like(rows)
    if mode == "concat":
        expected.index_add_(0, q, weight[:, :6]).index_add_(0, r, weight[:, 6:])
    elif mode == "add":
        expected.index_add_(0, q, weight).index_add_(0, r, weight)
    else:
        expected.index_add_(0, q, weight * (1 + rows[r])).index_add_(0, r, weight * rows[q])
    torch.testing.assert_close(table.rows.weight.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["mult", "add"])
def test_full_features_train_as_plain_rows(mode):
    """The row that stands for their missing second part never moves, and takes no gradient."""
    table = build(mode, make_rows=FusedRowsFactory(RowOptimizer(lr=0.1, weight_decay=1.0)))
    assert table.digits.rest == 1
    for _ in range(3):
        table.rows.zero_grad()
        lookup(table, 1, 3).square().sum().backward()
        table.rows.step()
    values = table.rows.values()
    assert float(values[0].abs().max()) == 0
    start = table.digits.offset[0, 1]
    assert torch.equal(lookup(table, 1, 3), values[start : start + 3])


@pytest.mark.parametrize(
    ("sizes", "share", "collisions"),
    [
        *[(CRITEO_KAGGLE, *pair) for pair in [(0.5, 2), (0.2, 5), (0.1, 10), (0.05, 20), (0.01, 101)]],
        (CRITEO_KAGGLE, 0.005, 205),
        *[(AVAZU, *pair) for pair in [(0.5, 2), (0.1, 10), (0.01, 102)]],
        *[(CRITEO_2CORE, *pair) for pair in [(0.5, 2), (0.1, 10), (0.01, 103)]],
    ],
)  # fmt: skip
def test_known_collision_numbers(sizes, share, collisions):
    """The derived settings of the comparative study (Zhang et al., VLDB 2024), which has whole numbers."""
    config = QRConfig.for_budget(of(sizes), 16, int(share * 64 * sum(sizes)))
    assert config.partitions == 2
    assert abs(config.collisions - collisions) < 0.6


def test_the_known_floor_of_two_partitions():
    """0.138 % of Criteo at 1557 ids to a row; below it three partitions take over."""
    features, full = of(CRITEO_KAGGLE), 64 * sum(CRITEO_KAGGLE)
    two = QRConfig.smallest_bytes(features, 16, partitions=2)
    assert two / full == pytest.approx(0.00138, abs=0.00001)
    assert QRConfig.for_budget(features, 16, two).partitions == 2
    assert QRConfig.for_budget(features, 16, two).collisions == pytest.approx(1557, abs=20)
    assert QRConfig.for_budget(features, 16, two - 1).partitions == 3
    assert QRConfig.for_budget(features, 16, full // 1000).partitions == 3
    with pytest.raises(SlimtabError, match=f"smallest size here is .*{two} bytes"):
        QRConfig.for_budget(features, 16, two - 1, partitions=2)
    assert QRConfig.smallest_bytes(features, 16) < full * 0.0003


@pytest.mark.parametrize("mode", ["mult", "concat"])
def test_more_budget_is_never_a_smaller_table(mode):
    """A sweep over budgets is monotone in bytes, across the change of partitions too."""
    features = of([1000, 3, 40, 77_777, 5000])
    counted = []
    for nbytes in np.geomspace(QRConfig.smallest_bytes(features, 8, mode=mode), 4 * 8 * 90_000, 80):
        config = QRConfig.for_budget(features, 8, int(nbytes), mode=mode)
        with torch.device("meta"):
            table = QR(config, features, 8, PlainRows, 0.1)
            counted.append(table.serve_bytes())
        assert counted[-1] == sum(table.bytes_by_feature()) <= nbytes
    assert counted == sorted(counted)


def test_small_features_stay_full_and_a_large_budget_keeps_all():
    """24 countries on 2 + 12 rows save nothing worth it; at 100 % there is nothing to save."""
    features = of(CRITEO_KAGGLE)
    config = QRConfig.for_budget(features, 16, int(0.01 * 64 * sum(CRITEO_KAGGLE)))
    with torch.device("meta"):
        digits = QR(config, features, 16, PlainRows, 0.1).digits
    assert all(full == (size <= 102) for size, full in zip(CRITEO_KAGGLE, digits.full, strict=True))
    whole = QRConfig.for_budget(FEATURES, 12, 4 * 12 * 1792)
    assert whole.collisions == 0
    table = QR(whole, FEATURES, 12, PlainRows, 0.1)
    assert table.serve_bytes() == 4 * 12 * 1792
    assert torch.equal(lookup(table, 2, 777), table.rows.values()[1003:1780])


def test_budgets_are_found_quickly():
    """Search calls this often: 60 features of 10 million ids in less than a tenth of a second."""
    features = of([10**7 - number for number in range(60)])
    started = time.perf_counter()
    QRConfig.for_budget(features, 16, 64 * 10**6)
    assert time.perf_counter() - started < 0.5  # 0.02 s alone; machines are shared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "times"}, "no mode 'times'"),
        ({"partitions": 1}, "set partitions to 2 or more"),
        ({"mode": "concat", "partitions": 5}, "do not fill the width 12"),
    ],
)
def test_wrong_options_are_named(options, message):
    """One line that says what to do."""
    with pytest.raises(SlimtabError, match=message):
        QRConfig.for_budget(FEATURES, 12, 50_000, **options)


def test_stats():
    """Rows, parts, and how many features the method leaves alone."""
    assert build().stats() == {
        "rows": 250 + 4 + 3 + 195 + 4 + 3 + 4 + 1,
        "partitions": 2,
        "full_features": 0.25,
    }
