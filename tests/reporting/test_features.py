"""Figures by feature, and the table that shows them."""

import pytest
import torch

from slimtab.config import Rule
from slimtab.reporting.features import feature_figures, feature_table
from slimtab.schema import Feature
from slimtab.tables.base import in_last_stage
from slimtab.tables.grouped import size_table
from slimtab.tables.rows.plain import PlainRows

FEATURES = [Feature("C1", 20), Feature("C2", 3000)]


def figures(method, share, features=FEATURES, rules=()):
    torch.manual_seed(0)
    nbytes = int(share * 4 * 8 * sum(f.num_ids for f in features))
    table = in_last_stage(size_table(features, 8, nbytes, method, None, rules)(PlainRows, 0.1)).eval()
    return feature_figures(table, table.freeze()), table


def test_hashing_collides_and_exact_features_do_not():
    """300 rows for 3000 ids: nearly all share; a small feature keeps its own."""
    features, table = figures("hash", 0.1)
    assert features["C1"]["collisions"] == 0
    assert features["C2"]["collisions"] > 0.99
    assert [features[name]["ids"] for name in ("C1", "C2")] == [20, 3000]
    assert sum(f["bytes"] for f in features.values()) == table.serve_bytes()


def test_several_probes_collide_less():
    """Unified reads four rows for an id: that two share all of them is rare."""
    assert figures("unified", 0.1)[0]["C2"]["collisions"] < 0.01


def test_widths_and_rows_kept():
    """Methods that cut rows or columns say so of each feature."""
    features, table = figures("mde", 0.4)
    assert [features[name]["width"] for name in ("C1", "C2")] == list(table.config.widths)
    features, table = figures("optembed", 0.4)
    for slot, feature in enumerate(FEATURES):
        assert features[feature.name]["rows_kept"] == table.config.kept[slot] / feature.num_ids
        assert features[feature.name]["width"] == table.config.widths[slot]
    features, table = figures("deeplight", 0.4)
    kept = sum(features[f.name]["elements_kept"] * f.num_ids * 8 for f in FEATURES)
    assert kept == pytest.approx(table.config.elements)


def test_groups_join_what_each_knows():
    """A feature has the figures of the method that serves it."""
    features, _ = figures("full", 0.5, rules=[Rule("mde", 100)])
    assert "width" in features["C2"]
    assert "width" not in features["C1"]


def test_ids_that_are_hashes_cannot_be_counted():
    """There is no list of them to look up."""
    features, _ = figures("unified", 0.1, [Feature("H", 300, encoding="hash")])
    assert "collisions" not in features["H"]


def test_table():
    """Largest first, a gap where a feature lacks a figure, and no cell broken by a name."""
    text = feature_table({"a|b": {"bytes": 10, "rows_kept": 0.25}, "c": {"bytes": 2048}})
    assert text.splitlines() == [
        "|feature|bytes|rows kept|",
        "|---|--:|--:|",
        "|c|2.05 KB||",
        "|a&#124;b|10 B|0.25|",
    ]
