"""What a table came to for each feature: bytes, collisions, rows kept, widths."""

from __future__ import annotations

from collections.abc import Mapping

from slimtab.sizes import format_bytes
from slimtab.tables.base import EmbeddingTable, FrozenTable
from slimtab.tables.parts.collisions import collision_rate

Figures = dict[str, dict[str, float]]


def feature_figures(table: EmbeddingTable, frozen: FrozenTable) -> Figures:
    """Return figures by feature, as ``{"C1": {"ids": 1000, "bytes": 640, "collisions": 0.5}}``.

    ``bytes`` are serving bytes and ``collisions`` the share of ids whose vector another id of the feature has
    too, which is not known where ids are hashes. What else there is depends on the method.

    Args:
        table: trained, in its last stage.
        frozen: the same, frozen.
    """
    features: Figures = {}
    for slot, (feature, nbytes) in enumerate(zip(table.features, table.bytes_by_feature(), strict=True)):
        features[feature.name] = {"ids": feature.num_ids, "bytes": nbytes}
        if feature.encoding == "vocab":
            features[feature.name]["collisions"] = collision_rate(frozen, slot, feature.num_ids)
    for figure, values in table.stats_by_feature().items():
        for name, value in values.items():
            features[name][figure] = value
    return features


def feature_table(features: Mapping[str, Mapping[str, float]]) -> str:
    """Return figures by feature as a Markdown table, the features of most bytes first."""
    columns = list(dict.fromkeys(column for figures in features.values() for column in figures))
    lines = [f"|feature|{'|'.join(columns).replace('_', ' ')}|", f"|---|{'--:|' * len(columns)}"]
    for name in sorted(features, key=lambda name: -features[name]["bytes"]):
        cells = [_cell(column, features[name].get(column)) for column in columns]
        lines.append(f"|{name.replace('|', '&#124;')}|{'|'.join(cells)}|")
    return "\n".join(lines)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    if column == "bytes":
        return format_bytes(int(value))
    return f"{value:,}" if float(value).is_integer() and value > 1 else f"{value:.3g}"
