"""Unified embedding: one table for all features, each with hashes of its own."""

import torch

from slimtab.schema import Feature
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.unified import Unified, UnifiedConfig

FEATURES = [Feature("a", 5000), Feature("b", 5000), Feature("c", 40)]


def build(rows=500, probes=2, project=False, features=FEATURES, dim=8):
    torch.manual_seed(0)
    return Unified(UnifiedConfig(rows, probes, project), features, dim, PlainRows, 1.0)


def test_all_features_use_the_whole_table():
    """That is the point: a small feature's rows are not a small table's."""
    table = build()
    for slot in range(2):
        addresses = table.addressing(torch.arange(5000), torch.full((5000,), slot))
        assert len(addresses.unique()) == 500


def test_the_same_id_in_two_features_reads_different_rows():
    """Multiplexing: collisions between features are chance, not system."""
    table = build()
    ids = torch.arange(5000)
    a, b = (table.addressing(ids, torch.full((5000,), slot)) for slot in (0, 1))
    assert int((a == b).sum()) < 50  # 20 expected of 10 000 by chance


def test_probes_are_concatenated_in_order():
    """The width is dim, made of narrow rows."""
    table = build(probes=4)
    ids, slot = torch.arange(20), torch.zeros(20, dtype=torch.int64)
    rows = table.rows.values()[table.addressing(ids, slot)]
    assert rows.shape == (20, 4, 2)
    assert torch.equal(table(ids, slot).detach(), rows.flatten(1))


def test_two_probes_keep_nearly_all_ids_apart():
    """500 rows, 5000 ids: alone each probe merges ten ids, together hardly any."""
    table = build()
    vectors = table(torch.arange(5000), torch.zeros(5000, dtype=torch.int64))
    assert len(vectors.unique(dim=0)) > 4900


def test_projection_starts_as_the_identity_and_is_per_feature():
    """A model with projections begins as one without; then each feature turns its own way."""
    table = build(project=True)
    pooled = torch.randn(6, 3, 8)
    torch.testing.assert_close(table.project(pooled), pooled)
    with torch.no_grad():
        table.projection[1] *= 2
    torch.testing.assert_close(table.project(pooled)[:, 1], 2 * pooled[:, 1])
    torch.testing.assert_close(table.project(pooled)[:, 0], pooled[:, 0])


def test_projection_is_a_matrix_from_the_right():
    """Written out in a loop: out[b, f, j] = Σ_i pooled[b, f, i] · P[f, i, j]."""
    table = build(project=True)
    torch.nn.init.normal_(table.projection)
    pooled = torch.randn(6, 3, 8)
    out = table.project(pooled)
    for feature in range(3):
        torch.testing.assert_close(out[:, feature], pooled[:, feature] @ table.projection[feature])


def test_projection_is_trained():
    """It is an ordinary parameter of the model, counted in the budget."""
    table = build(project=True)
    assert "projection" in dict(table.named_parameters())
    table.project(table(torch.arange(3), torch.arange(3))[None]).square().sum().backward()
    assert table.projection.grad.abs().sum() > 0
    assert table.serve_bytes() == build().serve_bytes() + 3 * 8 * 8 * 4


def test_64_bit_hashed_ids():
    """--ids hash feeds this method ids far above 2^53."""
    features = [Feature("a", 100, "hash"), Feature("b", 100, "hash")]
    table = build(features=features)
    ids = torch.tensor([2**62, 2**62 + 1, 2**63 - 1, 0])
    vectors = table(ids, torch.zeros(4, dtype=torch.int64))
    assert len(vectors.unique(dim=0)) == 4


def test_stats():
    """The load that theory speaks of: ids per row, over all probes."""
    assert build().stats() == {"rows": 500, "ids_per_row": 2 * 10_040 / 500}
