"""OptEmbed: thresholds, drawn widths, what is kept, and what is counted."""

import math

import numpy as np
import pytest
import torch

from slimtab.config import OptimizerSettings
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import Clock, get_method
from slimtab.tables.parts.cut import cut_bytes
from slimtab.tables.parts.shape import Shape, richest_shape
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.training import every_id

FEATURES = [Feature("a", 40), Feature("b", 7), Feature("c", 25)]
SIZES = [40, 7, 25]


def make(method="optembed", share=0.5, **options):
    torch.manual_seed(0)
    kind = get_method(method)
    config = kind.Config.for_budget(FEATURES, 8, int(share * 4 * 8 * 72), **options)
    return kind(config, FEATURES, 8, PlainRows, 0.1)


def test_rows_below_their_threshold_are_zero():
    """L1 norm against the threshold of the row's feature."""
    table = make()
    with torch.no_grad():
        table.thresholds.copy_(torch.tensor([0.6, 0.0, 9.0]))
    ids, slot = every_id(table)
    values, got = table.rows.values().numpy(), table.eval()(ids, slot).detach().numpy()
    limit = np.array([0.6, 0.0, 9.0])[slot.numpy()]
    expected = np.where((np.abs(values).sum(1) > limit)[:, None], values, 0)
    np.testing.assert_allclose(got, expected)
    assert (got[:40] == 0).all(1).any()
    assert (got[:40] != 0).any(1).any()
    assert (got[47:] == 0).all()


def test_thresholds_are_in_units_of_the_mean_norm():
    """How large rows grow is the optimizer's doing, and must not decide which are removed."""
    small, large = make().eval(), make().eval()
    ids, slot = every_id(small)
    with torch.no_grad():
        large.rows.weight.mul_(1000)
        for table in (small, large):
            table.thresholds.fill_(1.0)
            table.on_step(Clock(0, 100, 1000))
    kept = small(ids, slot).detach().ne(0).any(dim=1)
    np.testing.assert_array_equal(large(ids, slot).detach().ne(0).any(dim=1), kept)
    norms = small.rows.values().abs().sum(dim=1)
    np.testing.assert_array_equal(kept, norms > norms.mean())
    np.testing.assert_array_equal(small.energy().sum(dim=1) > 0, kept)


def test_thresholds_drift_without_data():
    """Δt = lr · α · e^(−t), whatever the network says (methods.md §10.11)."""
    table = make(alpha=0.3, threshold_lr=0.2)
    with torch.no_grad():
        table.thresholds.copy_(torch.tensor([0.0, 1.0, 2.0]))
    ((thresholds, lr),) = table.by_sgd()
    optimizer = torch.optim.SGD([thresholds], lr=lr)
    table.penalty().backward()
    optimizer.step()
    expected = [t + 0.2 * 0.3 * math.exp(-t) for t in (0.0, 1.0, 2.0)]
    assert thresholds.tolist() == pytest.approx(expected)


def test_widths_are_drawn_per_sample_and_feature():
    """Uniform over 1 … D, and not in evaluation."""
    table = make().train()
    cut = table.project(torch.ones(4000, 3, 8))
    widths = cut.sum(dim=2)
    assert torch.equal(cut, (torch.arange(8) < widths[..., None]).float())
    counts = torch.bincount(widths.long().flatten(), minlength=9)
    assert counts[0] == 0
    assert (counts[1:] / 12000 - 1 / 8).abs().max() < 0.02
    assert (widths[:, 0] != widths[:, 1]).any()
    assert torch.equal(table.eval().project(cut), cut)


def test_what_is_kept_is_what_has_the_most_energy():
    """Rows by count · |row|², as slow code says, where columns are not cut."""
    table = make("optembed-e", 0.4)
    counts = torch.randint(0, 50, (72,))
    table.use_counts(counts)
    values = table.rows.values()
    table.choose("retrain")
    energy = (counts * values.square().sum(1)).numpy()
    kept = table.config.floats // 8
    assert set(np.flatnonzero(table.mask.numpy())) == set(np.argsort(-energy, kind="stable")[:kept])


def test_retraining_begins_from_what_the_rows_hold_now():
    """The trainer rewinds to start values between the choice and the cut."""
    table = make()
    table.choose("retrain")
    mask, widths = table.mask.clone(), table.config.widths
    initial = torch.randn(72, 8)
    table.rows.assign(initial)
    table.set_stage("retrain")
    ids, slot = every_id(table)
    expected = initial * mask[:, None] * (torch.arange(8) < torch.tensor(widths)[slot][:, None])
    torch.testing.assert_close(table(ids, slot).detach(), expected)
    torch.testing.assert_close(table.freeze()(ids, slot), expected)


def test_rows_are_physically_gone():
    """Training memory falls with what is kept: no table under a mask."""
    table = make(share=0.3)
    table.set_stage("retrain")
    held = sum(parameter.numel() for parameter in table.parameters())
    assert held == sum(r * w for r, w in zip(table.config.kept, table.config.widths, strict=True))
    assert table.serve_bytes() == cut_bytes(SIZES, table.config.kept, table.config.widths, 8)


def test_a_feature_may_lose_every_row():
    """It is served as zeros."""
    table = make()
    mask = torch.ones(72, dtype=torch.bool)
    mask[40:47] = False
    table.cut_to(Shape((40, 0, 25), (2, 1, 3), mask))
    table.set_stage("retrain")
    ids, slot = every_id(table)
    for vectors in (table(ids, slot), table.freeze()(ids, slot)):
        assert (vectors[40:47] == 0).all()
        assert (vectors[:40, 0] != 0).all()


def test_a_shape_beyond_the_budget_is_refused():
    table = make(share=0.3)
    with pytest.raises(SlimtabError, match="do not fit"):
        table.cut_to(Shape((40, 7, 25), (8, 8, 8), torch.ones(72, dtype=torch.bool)))


def test_rows_without_energy_are_never_kept():
    energy = torch.zeros(72, 8)
    energy[[3, 50]] = 1.0
    shape = richest_shape(energy, SIZES, make().config)
    assert shape.kept == (1, 0, 1)


def test_unseen_rows_fade_under_fused_rows():
    """Pruning works because decay reaches rows that no batch touches."""
    from slimtab.training.optimizers import fused_rows

    rows = fused_rows(OptimizerSettings(rows_decay=2.0), 10)(72, 8, 0.1)
    before = rows.values().norm()
    for _ in range(10):
        rows.step()
    assert float(rows.values().norm() / before) == pytest.approx(math.exp(-2), rel=1e-5)
