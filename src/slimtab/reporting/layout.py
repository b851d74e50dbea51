"""The charts of TensorBoard's custom scalars: is it good, is it small, is it fast, is it well."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

Layout = dict[str, dict[str, list[Any]]]

# Category → chart → which tags it shows, as regular expressions.
_CHARTS = {
    "quality": {
        "logloss, training and validation": ["loss/train", "valid/logloss"],
        "AUC, validation": ["valid/auc"],
        "predicted clicks per click, validation": ["valid/calibration"],
    },
    "bytes": {
        "serving bytes": ["bytes/serve_bytes"],
        "full tables, training, vocabulary": ["bytes/(full|train|vocab)_bytes"],
    },
    "speed": {"rows per second": ["speed/rows_per_second"]},
    "health": {
        "norms of gradients": ["norm/.*_gradient"],
        "norms of weights": ["norm/.*_weight"],
        "out-of-vocabulary ids, share by feature": ["oov/.*"],
    },
}


def layout(figures: Collection[str] = (), by_feature: Collection[str] = ()) -> Layout:
    """Return categories of charts, as ``SummaryWriter.add_custom_scalars`` takes them.

    Args:
        figures: names of what the table says of itself; each has a chart.
        by_feature: the same of each feature; a chart has all features.
    """
    charts: Layout = {
        category: {title: ["Multiline", tags] for title, tags in charts.items()}
        for category, charts in _CHARTS.items()
    }
    of_table = {name: ["Multiline", [f"table/{name}$"]] for name in figures}
    of_features = {f"{name} by feature": ["Multiline", [f"feature_{name}/.*"]] for name in by_feature}
    if of_table or of_features:
        charts["figures of the method"] = {
            title.replace("_", " "): chart for title, chart in {**of_features, **of_table}.items()
        }
    return charts
