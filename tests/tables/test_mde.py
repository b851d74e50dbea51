"""Mixed dimensions: narrow rows for features with many ids, and projections."""

import time

import numpy as np
import pytest
import torch

from slimtab.data.kaggle import CRITEO_KAGGLE
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.mde import Mde, MdeConfig, power_law, rounded
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.training import every_id

FEATURES = [Feature("a", 50), Feature("b", 3000), Feature("c", 4), Feature("d", 700)]
WIDTHS = (4, 1, 8, 3)


def build(widths=WIDTHS, make_rows=PlainRows, dim=8, features=FEATURES, std=1.0):
    torch.manual_seed(0)
    return Mde(MdeConfig(widths), features, dim, make_rows, std)


def features_of(sizes):
    return [Feature(f"C{number}", size) for number, size in enumerate(sizes, 1)]


def matrices(table):
    """Each feature's rows [n, w] and projection [w, dim], out of what is frozen."""
    frozen, rows, projections = table.freeze(), {}, {}
    start, first = 0, 0
    for slot in np.argsort(WIDTHS, kind="stable"):
        n, w = FEATURES[slot].num_ids, WIDTHS[slot]
        rows[slot] = frozen.values[start : start + n * w].view(n, w).numpy()
        start += n * w
    for slot, w in enumerate(WIDTHS):
        projections[slot] = np.eye(8)
        if w < 8:
            projections[slot] = frozen.projection[first : first + w].numpy()
            first += w
    return rows, projections


@pytest.mark.parametrize("frozen", [False, True])
def test_equals_the_paper(frozen):
    """E_f[x] P_f for every id of every feature, and E_f[x] itself where rows are full."""
    table = build()
    rows, projections = matrices(table)
    lookup = table.freeze() if frozen else table
    for slot, feature in enumerate(FEATURES):
        ids = torch.arange(feature.num_ids)
        pooled = torch.zeros(len(ids), 4, 8)
        pooled[:, slot] = lookup(ids, torch.full_like(ids, slot)).detach()
        got = lookup.project(pooled)[:, slot].detach().numpy()
        np.testing.assert_allclose(got, rows[slot] @ projections[slot], rtol=1e-4, atol=1e-5)


def test_gradients_equal_those_of_plain_matrices():
    """Rows and projections of all widths at once, ids of all features mixed."""
    table = build()
    rows, projections = matrices(table)
    ids = torch.stack([torch.randint(0, f.num_ids, (64,)) for f in FEATURES], dim=1)
    slot = torch.arange(4).expand_as(ids)
    weight = torch.randn(64, 4, 8)
    pooled = table(ids.reshape(-1), slot.reshape(-1)).view(64, 4, 8)
    (table.project(pooled) * weight).sum().backward()
    projected = []
    for f in range(4):
        gradient = np.zeros_like(rows[f])
        np.add.at(gradient, ids[:, f].numpy(), weight[:, f].numpy() @ projections[f].T)
        group = int(table.rows.group[f])  # widths are distinct here, so each feature has rows of its own
        np.testing.assert_allclose(table.rows.rows[group].weight.grad, gradient, rtol=1e-4, atol=1e-4)
        if WIDTHS[f] < 8:
            projected.append(rows[f][ids[:, f].numpy()].T @ weight[:, f].numpy())
    np.testing.assert_allclose(table.projection.grad, np.concatenate(projected), rtol=1e-3, atol=1e-3)


def test_what_pads_a_narrow_row_is_zero():
    """A window of full width also reads what follows the row, which is another id's."""
    frozen = build().freeze()
    for slot, width in enumerate(WIDTHS):
        ids = torch.arange(4)
        assert frozen(ids, torch.full_like(ids, slot))[:, width:].abs().sum() == 0
        assert frozen(ids, torch.full_like(ids, slot))[:, :width].abs().min() > 0


def test_features_of_one_width_share_rows_and_no_more():
    """Few matrices, however many features; the last id of one is not the first of the next."""
    table = build((4, 2, 4, 2))
    assert [(rows.num_rows, rows.width) for rows in table.rows.rows] == [(3700, 2), (54, 4)]
    assert len(table(*every_id(table)).unique(dim=0)) == 3754
    assert table.width == 4


def test_rows_of_a_width_no_id_asks_for_do_not_move():
    """A batch without a feature must not touch what it owns."""
    table = build(make_rows=FusedRowsFactory(RowOptimizer(lr=0.1)))
    before = table.freeze().values.clone()
    table(torch.arange(3), torch.zeros(3, dtype=torch.int64)).sum().backward()
    for rows in table.rows.rows:
        rows.step()
    assert int((table.freeze().values != before).sum()) == 3 * 4


def test_start_values_at_every_width():
    """One float times a projection varies as a full row does (methods.md §0.3), feature by feature."""
    features = features_of([4000, 4000, 4000])
    table = build((1, 3, 16), features=features, dim=16, std=0.5)
    for slot in range(3):
        ids = torch.arange(4000)
        pooled = torch.zeros(4000, 3, 16)
        pooled[:, slot] = table(ids, torch.full_like(ids, slot)).detach()
        std = float(table.project(pooled)[:, slot].detach().std())
        assert std == pytest.approx(0.5, rel=0.05), slot


def test_all_features_full_need_no_projection():
    """Then the method is the full table."""
    table = build((8, 8, 8, 8))
    assert table.projection is None
    pooled = torch.randn(3, 4, 8)
    assert torch.equal(table.project(pooled), pooled)
    assert table.serve_bytes() == 4 * 8 * 3754 + 32


# The budget.


@pytest.mark.parametrize(("share", "alpha"), [(0.5, 0.071), (0.2, 0.126), (0.1, 0.160)])
def test_golden_exponents_of_criteo(share, alpha):
    """Those of the public code, which rounds to whole numbers first and charges projections in its search."""
    config = MdeConfig.for_budget(features_of(CRITEO_KAGGLE), 16, int(share * 64 * sum(CRITEO_KAGGLE)))
    assert round(config.alpha, 3) == alpha


def test_golden_widths_of_criteo():
    """At 10 % the power law gives what the study's plot script lists (whose lone 14 is a 16)."""
    widths = rounded(power_law(np.array(CRITEO_KAGGLE), 16, np.array([0.160])), 16, True)[0].tolist()
    assert widths == [8, 8, 1, 2, 8, 8, 4, 8, 16, 4, 4, 1, 4, 8, 4, 2, 16, 4, 8, 16, 2, 16, 16, 4, 8, 4]
    assert np.dot(widths, CRITEO_KAGGLE) / (16 * sum(CRITEO_KAGGLE)) == pytest.approx(0.093, abs=5e-4)


def test_one_sixteenth_of_criteo_is_too_little():
    """One float per id is 6.25 % at width 16, and projections come on top."""
    with pytest.raises(SlimtabError, match=r"mde cannot fit .* its smallest size here is"):
        MdeConfig.for_budget(features_of(CRITEO_KAGGLE), 16, 4 * sum(CRITEO_KAGGLE))


@pytest.mark.parametrize("share", [0.07, 0.1, 0.13, 0.25, 0.5, 0.77, 1.0])
def test_steps_of_powers_of_two_do_not_waste_the_budget(share):
    """On Criteo the power law alone leaves up to half of it: a doubling is several million floats."""
    nbytes = int(share * 64 * sum(CRITEO_KAGGLE))
    config = MdeConfig.for_budget(features_of(CRITEO_KAGGLE), 16, nbytes)
    with torch.device("meta"):
        counted = Mde(config, features_of(CRITEO_KAGGLE), 16, PlainRows, 0.1).serve_bytes()
    assert 0.95 * nbytes <= counted <= nbytes
    ideal = power_law(np.array(CRITEO_KAGGLE), 16, np.array([config.alpha]))[0]
    odd = [w for w in config.widths if w not in (1, 2, 4, 8, 16)]
    assert len(odd) <= 2
    assert all(w >= r for w, r in zip(config.widths, rounded(ideal, 16, True), strict=True))


def test_widths_fall_with_the_number_of_ids():
    """The power law's one promise, where nothing was widened."""
    nbytes = int(0.5 * 64 * sum(CRITEO_KAGGLE))
    config = MdeConfig.for_budget(features_of(CRITEO_KAGGLE), 16, nbytes, power_of_two=False)
    ordered = [width for _, width in sorted(zip(CRITEO_KAGGLE, config.widths, strict=True))]
    assert ordered == sorted(ordered, reverse=True)
    assert len(set(ordered)) > 5  # more than powers of two


def test_features_that_would_not_get_smaller_stay_full():
    """One id of one float and a projection is larger than one id in full."""
    sizes = [1, 1, 2, 1000, 1000]
    smallest = MdeConfig.smallest_bytes(features_of(sizes), 4)
    assert MdeConfig.for_budget(features_of(sizes), 4, smallest).widths == (4, 4, 1, 1, 1)


def test_choosing_widths_is_quick():
    """A plan is printed while one waits."""
    rng = np.random.default_rng(0)
    features = features_of(rng.integers(10**6, 10**7, 60).tolist())
    started = time.perf_counter()
    MdeConfig.for_budget(features, 128, int(0.3 * 512 * sum(f.num_ids for f in features)))
    assert time.perf_counter() - started < 0.5  # a tenth of it on a quiet core


def test_stats():
    """Mean width, by feature and by id."""
    stats = build().stats()
    assert stats["mean_width"] == 4.0
    assert stats["mean_width_by_id"] == pytest.approx((50 * 4 + 3000 + 32 + 2100) / 3754)
