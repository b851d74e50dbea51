"""Nested dimensions: any prefix works, and the budget says how long each feature's is."""

import numpy as np
import pytest
import torch

from slimtab.schema import Feature
from slimtab.tables.nested import Nested, NestedConfig
from slimtab.tables.parts.knapsack import choose_widths
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.training import every_id

FEATURES = [Feature("a", 50), Feature("b", 3000), Feature("c", 4)]
IDS = 3054


def build(floats=8000, dim=8, make_rows=PlainRows, counts=None, falling=True):
    torch.manual_seed(0)
    table = Nested(NestedConfig(floats), FEATURES, dim, make_rows, 1.0)
    if falling:  # as nested training leaves them: the first coordinates hold most
        table.rows.assign(table.rows.values() * 0.5 ** torch.arange(dim))
    if counts is not None:
        table.use_counts(counts)
    return table


# The first stage.


def test_training_cuts_each_id_to_a_prefix_of_a_drawn_width():
    """Uniform over 1, 2, 4, 8; the length of the vector is kept, so that the network sees no cut."""
    table = build(falling=False)
    ids = torch.arange(3000)
    slot = torch.ones_like(ids)
    whole = table.eval()(ids, slot)
    cut = table.train()(ids, slot)
    widths = (cut != 0).sum(dim=1)
    for width in (1, 2, 4, 8):
        drawn = widths == width
        assert float(drawn.float().mean()) == pytest.approx(0.25, abs=0.04)
        expected = whole[drawn] * (torch.arange(8) < width) * (8 / width) ** 0.5
        torch.testing.assert_close(cut[drawn], expected)
    assert float(cut.detach().std()) == pytest.approx(1.0, rel=0.05)


def test_widths_are_drawn_anew_in_every_lookup():
    """Else an id would train one prefix only."""
    table = build().train()
    ids = torch.arange(50)
    one, other = (table(ids, torch.zeros_like(ids)) for _ in range(2))
    assert bool((one != other).any())


def test_eval_cuts_nothing_before_widths_are_chosen():
    """Validation of the first stage scores whole rows, and is the same each time."""
    table = build().eval()
    ids, slot = every_id(table)
    assert torch.equal(table(ids, slot), table.rows.values())


def test_what_is_cut_off_gets_no_gradient():
    """Later coordinates learn only what the earlier ones leave over."""
    table = build(falling=False).train()
    cut = table(*every_id(table))
    cut.sum().backward()
    assert torch.equal(table.rows.weight.grad != 0, cut != 0)


# Choosing widths.

# How much of the squared gradients each of 8 coordinates gets when 1, 2, 4 and 8 are drawn alike, by hand:
# the mean over widths that hold it of 8 / width.
DRAWN = np.array([8 + 4 + 2 + 1, 4 + 2 + 1, 2 + 1, 2 + 1, 1, 1, 1, 1]) / 4


@pytest.mark.parametrize("counted", [True, False])
def test_energy_is_weighted_by_counts(counted):
    """Rows nobody reads are worth nothing: a feature read often gets the floats."""
    counts = torch.cat([torch.full((50,), 1000), torch.zeros(3000, dtype=torch.int64), torch.ones(4).long()])
    table = build(IDS + 7 + 4 * 7 + 50 * 5 + 49, counts=counts if counted else None)
    values = table.rows.values().double().numpy()
    weights = counts.double().numpy() if counted else np.ones(IDS)
    energy = np.stack([weights[a:b] @ values[a:b] ** 2 for a, b in ((0, 50), (50, 3050), (3050, 3054))])
    energy *= DRAWN
    table.set_stage("choose")
    assert table.widths.tolist() == choose_widths([50, 3000, 4], energy, table.config.floats - 7)
    assert table.widths[1] == 1
    assert table.widths[0] > 5


def trained(scales, floats, counts=None):
    """A table after steps whose gradients are as large as each feature's of ``scales``; values all alike."""
    table = build(floats, make_rows=FusedRowsFactory(RowOptimizer(lr=1e-6)), counts=counts, falling=False)
    ids, slot = every_id(table)
    for _ in range(20):
        table.rows.zero_grad()
        torch.manual_seed(1)
        (table.train()(ids, slot) * torch.tensor(scales)[slot, None]).sum().backward()
        table.rows.step()
    return table


def test_what_the_loss_feels_gets_the_floats():
    """Counts and squares alone gave sports users 1 coordinate of 16 and items 8: AUC was 0.037 lower.

    Every feature is read equally often here and all values are alike; feature ``b`` alone moves the loss.
    """
    counts = torch.cat([torch.full((n,), 6000 // n) for n in (50, 3000, 4)])
    large = trained([1e-3, 1.0, 1e-3], 3000 * 4 + 54 * 8, counts)
    large.set_stage("choose")
    small = trained([1.0, 1e-3, 1.0], 3000 * 4 + 54 * 8, counts)
    small.set_stage("choose")
    assert large.widths.tolist()[1] == 4
    assert small.widths.tolist() == [8, 3, 8]
    assert large.widths.tolist() != small.widths.tolist()


def test_coordinates_of_one_size_have_falling_worth():
    """Adam and decay make all coordinates alike; by squares alone one of two equals got all, the other 1."""
    table = build(falling=False)
    table.rows.assign(torch.ones(IDS, 8))
    energy = table._energy(table.rows.values())
    torch.testing.assert_close(energy[1], 3000 * torch.tensor(DRAWN))
    assert choose_widths([10, 10], energy[[1, 1]].numpy(), 80) == [4, 4]


# The second stage.


def test_chosen_rows_are_what_the_network_saw_at_that_width():
    """Prefix and rescaling are those of training; nothing jumps when the stage begins."""
    table = build().eval()
    ids, slot = every_id(table)
    whole = table(ids, slot)
    table.set_stage("choose")
    assert len(table.widths.unique()) > 1
    widths = table.widths[slot][:, None]
    expected = whole * (torch.arange(8) < widths) * (8 / widths).sqrt()
    torch.testing.assert_close(table(ids, slot), expected)
    torch.testing.assert_close(table.train()(ids, slot), expected)  # nothing is drawn any more


def test_training_on_keeps_the_cut():
    """What was cut off stays zero under gradients and decay, so that freezing loses nothing."""
    table = build(make_rows=FusedRowsFactory(RowOptimizer(lr=0.1, weight_decay=0.1)))
    table.set_stage("choose")
    ids, slot = every_id(table)
    before = table.freeze().values
    for _ in range(3):
        table.rows.zero_grad()
        table.train()(ids, slot).sum().backward()
        table.rows.step()
    cut = torch.arange(8) >= table.widths[slot][:, None]
    assert table.rows.values()[cut].abs().max() == 0
    assert bool((table.freeze().values != before).any())
    assert torch.equal(table.freeze()(ids, slot), table.eval()(ids, slot))


def test_frozen_in_its_first_stage_it_is_cut_without_training():
    """The method's promise: any prefix works. The bytes are those of the end."""
    table = build().eval()
    early = table.freeze()
    assert torch.equal(table(*every_id(table)), table.rows.values())  # freezing changed nothing
    table.set_stage("choose")
    assert torch.equal(early.values, table.freeze().values)
    assert torch.equal(early.widths, table.freeze().widths)


def test_frozen_rows_are_packed_by_hand():
    """Feature after feature, row after row, only the width of each; the rest of the array is padding."""
    table = build()
    table.set_stage("choose")
    frozen = table.freeze()
    packed = [
        value
        for row, width in zip(table.rows.values(), table.widths[every_id(table)[1]].tolist(), strict=True)
        for value in row[:width].tolist()
    ]
    assert len(packed) <= 8000 - 7
    np.testing.assert_array_equal(frozen.values[: len(packed)].numpy(), np.array(packed, np.float32))
    assert frozen.values[len(packed) :].abs().sum() == 0


@pytest.mark.parametrize("share", [0.13, 0.4, 0.7])
def test_padding_is_little_where_features_are_many(share):
    """Widths of any length fill the array, as far as the smallest feature's ids allow."""
    table = build(int(share * 8 * IDS))
    table.set_stage("choose")
    used = int((table.sizes * table.widths).sum())
    able = table.sizes[table.widths < 8]
    assert table.config.floats - 7 - int(able.min()) < used <= table.config.floats - 7


def test_budgets_end_at_the_full_table():
    """There is nothing more to keep than whole rows."""
    config = NestedConfig.for_budget(FEATURES, 8, 10**7)
    assert config.floats == 8 * IDS + 7
    table = Nested(config, FEATURES, 8, PlainRows, 1.0)
    table.set_stage("choose")
    assert table.widths.tolist() == [8, 8, 8]
    assert table.stats() == {"mean_width": 8.0, "mean_width_by_id": 8.0}
