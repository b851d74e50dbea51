"""TensorBoard's embedding projector: vectors of the most frequent ids, with their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from google.protobuf import text_format
from tensorboard.plugins.projector import ProjectorConfig
from torch import Tensor

from slimtab.batch import Batch, Ragged
from slimtab.collection import TableCollection
from slimtab.files import written
from slimtab.schema import Feature
from slimtab.tables.adapt import spread_evenly

POINTS = 3000  # shown at most: t-SNE in a browser is at ease with them
_TOKEN = 40  # characters
_ROWS = 256  # of a batch


@torch.no_grad()
def write_projector(folder: Path, tables: TableCollection, data: Path, points: int = POINTS) -> None:
    """Write what the projector reads: vectors, their labels, and where both lie.

    The most frequent ids of each feature are shown, equally many of each or all it has, as the network sees
    them: looked up in eval mode and projected. Features whose ids are hashes have no tokens and are left out.

    Args:
        folder: of the run's event files.
        tables: trained tables, in eval mode.
        data: the dataset folder, for tokens and counts.
        points: ids at most.
    """
    shown = [feature for feature in tables.features if feature.encoding == "vocab"]
    if not shown:
        return
    counts = spread_evenly([feature.num_ids for feature in shown], points)
    vectors = _vectors(tables, shown, counts).cpu().numpy()
    with written(folder / "projector_vectors.tsv") as beside:
        np.savetxt(beside, vectors, fmt="%.4g", delimiter="\t")
    with written(folder / "projector_labels.tsv") as beside:
        lines = ["token\tfeature\tid\tcount\tlog2 count", *_labels(data, shown, counts)]
        beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    config = ProjectorConfig()
    config.embeddings.add(
        tensor_name="ids",
        tensor_shape=list(vectors.shape),
        tensor_path="projector_vectors.tsv",
        metadata_path="projector_labels.tsv",
    )
    with written(folder / "projector_config.pbtxt") as beside:
        beside.write_text(text_format.MessageToString(config), encoding="utf-8")


def _vectors(tables: TableCollection, shown: Sequence[Feature], counts: Sequence[int]) -> Tensor:
    """Return the vectors of ids 0 … count − 1 of each feature, feature after feature [Σ counts, dim].

    Row n of a batch holds id n of every feature, or its last one shown, so that all are looked up at once.
    """
    limit = {feature.name: count - 1 for feature, count in zip(shown, counts, strict=True)}
    slot = {feature.name: slot for slot, feature in enumerate(tables.features)}
    one_hot = [feature for feature in tables.features if not feature.multi_hot]
    multi_hot = [feature for feature in tables.features if feature.multi_hot]
    device = tables.device
    parts = []
    for rows in torch.split(torch.arange(max(counts), device=device), _ROWS):
        ids = {f.name: rows.clamp(max=limit.get(f.name, 0)) for f in tables.features}
        ragged = None
        if multi_hot:
            values = torch.cat([ids[feature.name] for feature in multi_hot])
            lengths = torch.ones(len(multi_hot), len(rows), dtype=torch.int64, device=device)
            ragged = Ragged(tuple(feature.name for feature in multi_hot), values, lengths)
        keys = tuple(feature.name for feature in one_hot)
        columns = torch.stack([ids[key] for key in keys], 1) if keys else rows.new_empty(len(rows), 0)
        nothing = torch.zeros(len(rows), device=device)
        parts.append(tables.embed(Batch(nothing[:, None], keys, columns, nothing, ragged)))
    vectors = torch.cat(parts)
    return torch.cat([vectors[:count, slot[f.name]] for f, count in zip(shown, counts, strict=True)])


def _labels(data: Path, shown: Sequence[Feature], counts: Sequence[int]) -> Iterator[str]:
    for feature, count in zip(shown, counts, strict=True):
        if not count:
            continue
        file = pq.ParquetFile(data / "vocab" / f"{feature.name}.parquet")
        head = next(file.iter_batches(batch_size=count, columns=["token", "count"]))
        for number, (token, seen) in enumerate(zip(*(c.to_pylist() for c in head.columns), strict=True)):
            label = "(out of vocabulary)" if number == 0 else _plain(token)
            yield f"{label}\t{_plain(feature.name)}\t{number}\t{seen}\t{np.log2(max(seen, 1)):.1f}"


def _plain(text: str) -> str:
    """Return ``text`` in one cell of one line: TensorBoard's TSV knows no quoting."""
    cut = text if len(text) <= _TOKEN else text[: _TOKEN - 1] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in cut) or "(empty)"
