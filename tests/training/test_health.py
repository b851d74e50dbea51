"""Signs that training is well: what a dashboard shows, and the warning nobody may miss."""

import warnings

import pytest
import torch

from slimtab.collection import TableCollection
from slimtab.config import OptimizerSettings
from slimtab.models.base import build_model
from slimtab.tables.rows.base import SteppedRows
from slimtab.testing import fake_batch, fake_schema
from slimtab.training.health import health_figures, warn_untrained
from slimtab.training.optimizers import fused_rows

SCHEMA = fake_schema([4, 300], numerics=2, multi_hot=[50])


def model(**options):
    torch.manual_seed(0)
    tables = TableCollection.build(SCHEMA.features, 8, make_rows=fused_rows(OptimizerSettings()))
    return build_model("deepfm", tables, 2, {"mlp": [8], **options})


def test_norms_and_oov_rates():
    """Gradient and weight norms, by definition; the share of id 0 in each one-hot column."""
    network, batch = model(), fake_batch(SCHEMA, 64, 0)
    network(batch).sum().backward()
    figures = health_figures(network, batch)
    gradients = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert figures["norm/dense_gradient"] == pytest.approx(float(gradients.norm()), rel=1e-5)
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert figures["norm/dense_weight"] == pytest.approx(float(weights.norm()), rel=1e-5)
    assert figures["norm/rows_gradient"] > 0
    assert figures["norm/rows_weight"] > 0
    cells = batch.ragged.values[: int(batch.ragged.lengths[0].sum())]
    assert figures["oov/M1"] == pytest.approx(float((cells == 0).float().mean()))
    for column, key in enumerate(batch.keys):
        assert figures[f"oov/{key}"] == pytest.approx(float((batch.ids[:, column] == 0).float().mean()))


def test_norms_are_over_all_tables_of_rows():
    """A method may keep its rows in several places; one norm stands for all of them."""
    tables = TableCollection.build(
        SCHEMA.features, 8, "mde", "40%", make_rows=fused_rows(OptimizerSettings())
    )
    network, batch = build_model("deepfm", tables, 2, {"mlp": [8]}), fake_batch(SCHEMA, 64, 0)
    network(batch).sum().backward()
    rows = [module for module in network.modules() if isinstance(module, SteppedRows)]
    assert len(rows) > 1
    figures = health_figures(network, batch)
    assert figures["norm/rows_gradient"] == pytest.approx(sum(r.grad_norm() ** 2 for r in rows) ** 0.5)
    assert figures["norm/rows_weight"] == pytest.approx(sum(r.touched_norm() ** 2 for r in rows) ** 0.5)


def test_looking_changes_nothing():
    """Logging every step or none must train the same model."""
    network, batch = model(), fake_batch(SCHEMA, 64, 0)
    network(batch).sum().backward()
    before = [p.grad.clone() for p in network.parameters()]
    health_figures(network, batch)
    assert all(torch.equal(p.grad, old) for p, old in zip(network.parameters(), before, strict=True))
    assert network.tables.table.rows.grad_norm() is not None


def test_a_table_that_gets_no_gradient_is_named():
    """It would stay at its start values, and every result about it would be noise."""
    network, batch = model(), fake_batch(SCHEMA, 64, 0)
    network.tables.embed(batch)
    network.output(network.deep(torch.ones(64, 26))).sum().backward()
    network.linear = None
    with pytest.warns(UserWarning, match=r"'tables\.table\.rows' gets no gradient"):
        warn_untrained(network)


def test_a_parameter_that_gets_no_gradient_is_named():
    """A branch that was built and never joined."""
    network, batch = model(), fake_batch(SCHEMA, 64, 0)
    network.orphan = torch.nn.Parameter(torch.zeros(3))
    network(batch).sum().backward()
    with pytest.warns(UserWarning, match="'orphan' gets no gradient"):
        warn_untrained(network)


def test_a_well_built_model_warns_of_nothing():
    """A warning that always comes is read by nobody; frozen parameters are meant to be."""
    network, batch = model(), fake_batch(SCHEMA, 64, 0)
    network.fixed = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    network(batch).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_untrained(network)
