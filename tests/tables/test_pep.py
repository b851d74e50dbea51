"""Soft thresholds: their values and gradients, a start that can learn, and a retraining from the start."""

import numpy as np
import pytest
import torch

from slimtab.collection import TableCollection
from slimtab.config import OptimizerSettings
from slimtab.models.base import build_model
from slimtab.schema import Feature
from slimtab.tables.base import Clock
from slimtab.tables.parts.pruning import PrunedConfig, cut
from slimtab.tables.pep import PEP, soft_threshold
from slimtab.tables.rows.fused import FusedRows, FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.fakes import fake_schema
from slimtab.testing.training import every_id, planted_batches, walk_stages
from slimtab.training.optimizers import fused_rows

FEATURES = (Feature("C1", 400), Feature("C2", 100), Feature("C3", 3))
ROWS, DIM = 503, 8
NBYTES = 4000


def build(make_rows=PlainRows, **options):
    torch.manual_seed(0)
    config = PrunedConfig.for_budget(FEATURES, DIM, NBYTES, **options)
    return PEP(config, FEATURES, DIM, make_rows, 0.1)


def test_values_and_gradients_of_the_threshold():
    """Against the formula and its derivatives, element by element in NumPy."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 6, generator=generator, dtype=torch.float64).requires_grad_()
    logits = torch.randn(40, 6, generator=generator, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    found = soft_threshold(values, logits)
    found.backward(upstream)
    v, s, g = (tensor.detach().numpy() for tensor in (values, logits, upstream))
    sigmoid = 1 / (1 + np.exp(-s))
    alive = np.abs(v) > sigmoid
    assert 0 < alive.sum() < alive.size
    np.testing.assert_allclose(found.detach(), np.where(alive, v - np.sign(v) * sigmoid, 0), atol=1e-12)
    np.testing.assert_allclose(values.grad, g * alive, atol=1e-12)
    expected = -g * np.sign(v) * alive * sigmoid * (1 - sigmoid)
    np.testing.assert_allclose(logits.grad, expected, atol=1e-12)


def test_the_published_start_has_no_gradient_and_ours_has():
    """σ(−150) is zero in float32: nothing would ever be pruned but for decay that acts on s."""
    values, logits = torch.randn(1000) * 0.1, torch.full((1000,), -150.0, requires_grad=True)
    soft_threshold(values, logits).sum().backward()
    assert float(logits.grad.abs().max()) == 0.0
    table = build()
    table(*every_id(table)).sum().backward()
    assert bool((table.relative.grad != 0).all())


def test_starts_at_a_hundredth_of_the_elements():
    """Small enough to cut nothing that matters, large enough to learn."""
    table = build()
    gone = (table(*every_id(table)) == 0).float().mean()
    assert float(gone) == pytest.approx(0.01, abs=0.005)


def test_lookup_equals_the_whole_table_cut_first():
    """Rows are gathered and then cut; cutting the whole table and then gathering is the same, and slow."""
    table = build()
    with torch.no_grad():
        table.relative.normal_(0, 0.05)
    ids, slot = every_id(table)
    weight = table.rows.values().numpy()
    logits = (table.level + 20 * table.relative.detach()).numpy()[slot.numpy()]
    whole = np.sign(weight) * np.maximum(np.abs(weight) - 1 / (1 + np.exp(-logits)), 0)
    some = torch.tensor([0, 5, 402, 399, 400, 5])
    np.testing.assert_allclose(table(ids[some], slot[some]).detach(), whole[some], atol=1e-7)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (50, 0.9693), (100, 1.0)])
def test_the_ramp_reaches_what_the_bytes_demand(step, share):
    """Density follows a schedule, whatever scale the weights have."""
    table = build(ramp=1.0)
    target = 1 - float(cut(table.rows.values().abs(), NBYTES).float().mean())
    table.on_step(Clock(step, 100, 2000))
    gone = float((table(*every_id(table)) == 0).float().mean())
    assert gone == pytest.approx(max(share * target, 0.01), abs=0.006)


def test_thresholds_differ_by_feature_and_dimension():
    """What one feature's threshold learned moves the order in which elements go, and no other's."""
    table = build()
    with torch.no_grad():
        table.relative[1, 3] = 0.2  # e⁴ times as high
    table.on_step(Clock(50, 100, 2000))
    gone = table(*every_id(table)) == 0
    assert float(gone[400:500, 3].float().mean()) > 0.99
    assert float(gone[400:500, [0, 1, 2, 4, 5, 6, 7]].float().mean()) < 0.9


def test_eval_shows_the_final_density():
    """Validation chooses among masks, not among weights that are not cut yet."""
    table = build().eval()
    vectors = table(*every_id(table))
    kept = cut(table.rows.values().abs(), NBYTES)
    assert int((vectors != 0).sum()) == int(kept.sum()) - 1  # the last one is at its threshold
    assert not bool((vectors != 0)[~kept].any())
    torch.testing.assert_close(table.freeze()(*every_id(table)), vectors, rtol=0, atol=1e-7)


def test_retrains_the_start_values_under_the_mask():
    """The mask is what was found; weights begin where they began, those it keeps unchanged."""
    schema, rates = fake_schema([400, 100, 3]), OptimizerSettings(rows_lr=0.02)
    torch.manual_seed(0)
    collection = TableCollection.build(
        schema.features, DIM, "pep", "25%", {}, fused_rows(rates, 20), 0.1, "error", None
    )
    model, table = build_model("deepfm", collection, 3, {"mlp": [8]}), collection.table
    start = table.rows.values()
    seen = []
    original = table.set_stage

    def watch(stage):
        original(stage)
        seen.append((table.rows.values(), table.mask.clone(), table(*every_id(table)).detach()))

    table.set_stage = watch
    walk_stages(model, planted_batches(schema, 20, 128, seed=1), rates)
    del table.set_stage
    ((values, mask, vectors),) = seen
    assert torch.equal(values, start)
    assert torch.equal(vectors, start * mask)
    assert not torch.equal(mask, cut(start.abs(), table.config.nbytes))  # it was learned
    assert (table.config.rows, table.config.elements) == (int(mask.any(dim=1).sum()), int(mask.sum()))
    assert not bool((table.eval()(*every_id(table)) != 0)[~mask].any())
    assert not table.relative.requires_grad


def test_thresholds_are_not_served():
    """The mask has taken them in; bytes for them would be bytes for nothing."""
    table = build(FusedRowsFactory(RowOptimizer()))
    assert isinstance(table.rows, FusedRows)
    table.set_stage("retrain")
    assert set(table.freeze().state_dict()) == {"words", "ranks", "bits", "starts", "values"}
