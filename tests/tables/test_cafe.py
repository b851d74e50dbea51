"""CAFE's lookup against a dictionary of hot ids, and the moves between shared and owned rows."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import get_method
from slimtab.tables.cafe import Cafe, CafeConfig
from slimtab.tables.hashing import hash_rows, make_salts
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows

FEATURES = [Feature("a", 6), Feature("b", 4000), Feature("c", 3000)]
DIM = 4


def build(features=FEATURES, nbytes=12_000, make_rows=PlainRows, **options):
    torch.manual_seed(0)
    config = CafeConfig.for_budget(features, DIM, nbytes, **{"threshold": 2.0, **options})
    return Cafe(config, features, DIM, make_rows, 0.1)


def backward(table, ids, slot, gradient):
    """One lookup whose vectors get ``gradient``."""
    vectors = table(torch.tensor(ids), torch.tensor(slot))
    vectors.backward(torch.tensor(gradient, dtype=torch.float32))
    return vectors.detach()


def make_hot(table, feature, ids):
    """Let ``ids`` be looked up until they own rows."""
    for _ in range(3):
        backward(table, ids, [feature] * len(ids), np.ones((len(ids), DIM)))


def hashed_row(table, slot, id_):
    """The shared row of an id, by the rule of methods.md §0.2."""
    rows = table.config.rows
    inside = id_
    if rows[slot] < FEATURES[slot].num_ids:
        salt = make_salts([FEATURES[slot].name], 1)[0, 0]
        inside = int(hash_rows(torch.tensor(id_), salt, rows[slot]))
    return sum(rows[:slot]) + inside


def test_lookup_is_a_dictionary_of_hot_ids_over_a_hash_table():
    """The reference: the owned row of a hot id, the hashed row of any other; exact features own theirs."""
    table = build()
    make_hot(table, 1, [5, 77, 3999])
    make_hot(table, 2, [5, 9])
    cells = zip(table.sketch.key.flatten().tolist(), table.sketch.row.flatten().tolist(), strict=True)
    owned = {key: row for key, row in cells if row >= 0}
    assert len(owned) == 5
    weight = table.rows.values().numpy()
    starts = [0, 6, 4006]
    for slot, feature in enumerate(FEATURES):
        for id_ in {0, 5, 9, 77, 500, feature.num_ids - 1} & set(range(feature.num_ids)):
            row = hashed_row(table, slot, id_)
            if starts[slot] + id_ in owned:
                row = sum(table.config.rows) + owned[starts[slot] + id_]
            for form in (table.eval(), table.freeze()):
                with torch.no_grad():
                    out = form(torch.tensor([id_]), torch.tensor([slot]))[0].numpy()
                np.testing.assert_array_equal(out, weight[row])


@pytest.mark.parametrize("make_rows", [PlainRows, FusedRowsFactory(RowOptimizer(lr=0.5, weight_decay=0.1))])
def test_a_hot_row_begins_as_the_row_the_forward_pass_used(make_rows):
    """The authors' code copies another row than the one it read, so ids jump when they become hot."""
    table = build(make_rows=make_rows, threshold=1.0)
    ids, slot = torch.tensor([5, 77, 3000]), torch.tensor([1, 1, 1])
    before = backward(table, ids.tolist(), slot.tolist(), np.ones((3, DIM)))
    assert int((table.sketch.row >= 0).sum()) == 3
    with torch.no_grad():
        torch.testing.assert_close(table.eval()(ids, slot), before)
    if make_rows is not PlainRows:  # the step moves what was read, and leaves the new rows but for decay
        table.rows.step()
        torch.testing.assert_close(table(ids, slot).detach(), before * 0.95)


def test_a_row_that_changes_hands_in_a_step_is_not_overwritten():
    """The optimizer writes back what was read: a row taken from one id may not hand that to the next."""
    table = build(make_rows=FusedRowsFactory(RowOptimizer(lr=0.5)), threshold=1.0, decay=0.01)
    make_hot(table, 1, list(range(300)))
    table.rows.zero_grad()
    table.sketch.num_free.fill_(0)  # only rows that are taken back can be given away
    table.added.fill_(1e9)
    ids, slot = torch.tensor([*range(50), 3000, 3001]), torch.tensor([1] * 52)
    gradient = np.zeros((52, DIM))
    gradient[-2:] = 1.0
    before = backward(table, ids.tolist(), slot.tolist(), gradient)
    table.rows.step()
    hot = table.sketch.find(table.addressing.keys(ids, slot)) >= 0
    assert hot.tolist() == [False] * 50 + [True] * 2
    with torch.no_grad():
        torch.testing.assert_close(table.eval()(ids, slot)[hot], before[hot])


def test_optimizer_moments_travel_with_the_row():
    """An id that becomes hot is not thrown back to the first, large steps of Adam."""
    table = build(make_rows=FusedRowsFactory(RowOptimizer()), threshold=2.0)
    for _ in range(3):
        table.rows.zero_grad()
        backward(table, [5, 77], [1, 1], np.ones((2, DIM)))
        table.rows.step()
    row = table.first_hot + int(
        table.sketch.find(table.addressing.keys(torch.tensor([5]), torch.tensor([1])))
    )
    assert float(table.rows.packed[row, DIM:].abs().min()) > 0


def test_scores_are_gradient_norms_of_mean_one():
    """Importance is relative within a batch: a loss scaled by a thousand finds the same ids."""
    for scale in (1e-3, 1.0, 1e3):
        table = build(threshold=100.0)
        gradient = scale * np.array([[3.0, 4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
        backward(table, [5, 77, 80], [1, 2, 2], gradient)
        scores = sorted(table.sketch.score[table.sketch.key >= 0].tolist())
        assert scores == pytest.approx([0.0, 0.5, 2.5])
        assert float(table.added) == 3


def test_ids_that_own_their_row_anyway_take_no_hot_row():
    """Tiny features are exact (trap 22); a second row for them would be wasted."""
    table = build()
    make_hot(table, 0, [0, 1, 2, 3, 4, 5])
    assert bool((table.sketch.key < 0).all())


def test_the_same_id_of_two_features_has_two_scores():
    """Country 5 is not device 5."""
    table = build()
    make_hot(table, 1, [5])
    asked = table.addressing.keys(torch.tensor([5, 5]), torch.tensor([1, 2]))
    assert (table.sketch.find(asked) >= 0).tolist() == [True, False]


def test_hashed_ids_of_63_bits():
    """Neither 2^24 nor 2^31 nor 2^53 is a limit (trap 2)."""
    features = [Feature("a", 3000, "hash"), Feature("b", 3000, "hash")]
    table = build(features)
    ids = [2**62 + step for step in (0, 1, 2**24, 2**31, 2**53)]
    make_hot(table, 0, ids)
    near = torch.tensor([2**62, 2**62 + 2, 2**62 + 2**31 + 1])
    keys = table.addressing.keys(near, torch.zeros(3, dtype=torch.int64))
    assert (table.sketch.find(keys) >= 0).tolist() == [True, False, False]
    frozen, ids = table.freeze(), torch.tensor(ids)
    with torch.no_grad():
        slot = torch.zeros_like(ids)
        assert torch.equal(frozen(ids, slot), table.eval()(ids, slot))
        assert len(frozen(ids, slot).unique(dim=0)) == 5


def test_no_gradient_no_score():
    """A feature the model ignores sends zeros: nothing may be divided by their mean."""
    table = build()
    backward(table, [5, 6], [1, 1], np.zeros((2, DIM)))
    assert bool((table.sketch.key < 0).all())
    assert float(table.added) == 0


def test_eval_leaves_the_sketch_alone():
    """Validation rows may not decide who is hot."""
    table = build().eval()
    make_hot(table, 1, [5])
    assert bool((table.sketch.key < 0).all())


def test_ids_that_cool_give_their_rows_back():
    """A hot id of yesterday is an ordinary one today; its row serves another."""
    table = build(threshold=1.0, decay=0.5)
    make_hot(table, 1, [5])
    table.added.fill_(1e9)
    for _ in range(3):
        backward(table, [77], [1], np.ones((1, DIM)))
        table.added.fill_(1e9)
    keys = table.addressing.keys(torch.tensor([5, 77]), torch.tensor([1, 1]))
    assert (table.sketch.find(keys) >= 0).tolist() == [False, True]


@pytest.mark.parametrize("share", [0.6, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("shared", [0.9, 0.3])
def test_settings_by_budget(share, shared):
    """``shared`` is of bytes, not of rows: a hot row takes its key and its place beside its floats."""
    features = [Feature("x", 1_000_000), Feature("y", 500_000)]
    nbytes = int(share * 4 * 16 * 1_500_000)
    config = get_method("cafe").Config.for_budget(features, 16, nbytes, shared=shared)
    assert 4 * 16 * sum(config.rows) == pytest.approx(shared * nbytes, rel=0.01)
    assert config.hot * (4 * 16 + 8) == pytest.approx((1 - shared) * nbytes, rel=0.01)


def stream(table, batches, zipf, first=0, seed=0):
    """Batches of 500 ids of ``b``, Zipf or flat, the most frequent one being ``first``."""
    rng = np.random.default_rng(seed)
    for _ in range(batches):
        ids = (rng.zipf(zipf, 500) - 1) % 4000 if zipf else rng.integers(0, 4000, 500)
        backward(table, (ids + first) % 4000, [1] * 500, np.ones((500, DIM)))


@pytest.mark.parametrize("batches", [40, 400])
@pytest.mark.parametrize("zipf", [1.3, None])
def test_rows_fill_up_however_often_ids_are_seen(zipf, batches):
    """The authors' threshold is for tens of millions of rows; one that finds itself needs no such scale."""
    table = build(threshold=0.0, shared=0.5)
    stream(table, batches, zipf)
    stats = table.stats()
    assert stats["hot_rows_owned"] >= 0.9 * stats["hot_rows"]
    if zipf:
        keys = table.addressing.keys(torch.arange(20), torch.ones(20, dtype=torch.int64))
        assert float((table.sketch.find(keys) >= 0).float().mean()) >= 0.95


def test_nobody_is_hot_before_scores_can_be_compared():
    """Else the first ids to come by would take all rows, whoever they are."""
    table = build(threshold=0.0, shared=0.5)
    stream(table, 1, None)
    assert table.stats()["hot_rows_owned"] == 0


def test_equals_do_not_take_rows_from_each_other():
    """Where counts are flat, an id a little behind keeps its row: one that is given up is trained in vain.

    Of the owners 0.8 are still there; where they go as soon as they are below the threshold, 0.1.
    """
    table = build(threshold=0.0, shared=0.5)
    stream(table, 100, None)
    ids, slot = torch.arange(4000), torch.ones(4000, dtype=torch.int64)
    keys = table.addressing.keys(ids, slot)
    owned = table.sketch.find(keys) >= 0
    stream(table, 50, None, seed=1)
    kept = (table.sketch.find(keys) >= 0)[owned]
    assert float(kept.float().mean()) > 0.6


def test_a_found_threshold_is_in_the_state():
    """A training that goes on from a checkpoint must not wait for scores anew."""
    table = build(threshold=0.0, shared=0.5)
    stream(table, 40, 1.3)
    assert 0 < float(table.state_dict()["threshold"]) < float("inf")


def test_a_budget_for_everything_needs_no_sketch():
    """Where each id owns a row there is nothing to find."""
    table = build(nbytes=1_000_000)
    assert table.sketch is None
    assert table.config.rows == (6, 4000, 3000)


@pytest.mark.parametrize("options", [{"decay": 0.0}, {"shared": 1.5}, {"threshold": -1.0}])
def test_settings_out_of_range(options):
    """One line that names them."""
    with pytest.raises(SlimtabError, match="cafe cannot work with"):
        build(**options)
