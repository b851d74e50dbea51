"""What shrinking a checkpoint from elsewhere leaves on disk.

``tables.safetensors`` holds the shrunk tables and nothing else: its size is the claim. ``dense.safetensors``
has all other weights of the checkpoint, untouched, ``model.json`` how to read the tables, and their figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import slimtab
from slimtab.errors import SlimtabError
from slimtab.files import write_errors_explained, written_folder
from slimtab.schema import Feature
from slimtab.shrinking.shrunk import Group, Shrunk
from slimtab.tables.fitted.base import empty_table
from slimtab.training.checkpoint import read_tensors, write_tensors

TABLES, DENSE, CARD = "tables.safetensors", "dense.safetensors", "model.json"


def save_shrunk(
    shrunk: Shrunk, folder: Path, dense: Mapping[str, Tensor], card: Mapping[str, Any] | None = None
) -> None:
    """Write a folder; an earlier one is replaced only when the new one is whole.

    Args:
        shrunk: the tables.
        folder: to make.
        dense: all other weights.
        card: what else to say of the model.

    Raises:
        SlimtabError: when the folder cannot be written.
    """
    groups = [
        {
            "method": group.method,
            "config": group.config,
            "dim": group.dim,
            "tables": {feature.name: feature.num_ids for feature in group.features},
        }
        for group in shrunk.groups
    ]
    plain = {
        **(card or {}),
        "shrunk_by": shrunk.method,
        "full_bytes": shrunk.full_bytes,
        "serve_bytes": shrunk.serve_bytes,
        "groups": groups,
        "figures": shrunk.figures,
        "slimtab": slimtab.__version__,
    }
    with write_errors_explained(folder.parent), written_folder(folder) as beside:
        write_tensors(beside / TABLES, shrunk.state_dict(), {})
        write_tensors(beside / DENSE, dense, {})
        (beside / CARD).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def load_shrunk(folder: str | Path) -> Shrunk:
    """Return the tables that ``slimtab shrink`` wrote for a checkpoint from elsewhere.

    Raises:
        SlimtabError: when a file is missing, damaged or of another model.
    """
    folder = Path(folder)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        groups = [_group(plain) for plain in card["groups"]]
        method, figures = card["shrunk_by"], card["figures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SlimtabError(
            f"no shrunk tables at {folder} ({' '.join(str(error).split())}); `slimtab shrink` writes them"
        ) from error
    tensors, _ = read_tensors(folder / TABLES)
    try:
        nn.ModuleList(group.table for group in groups).load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise SlimtabError(f"{folder / TABLES} does not fit {folder / CARD} ({reason})") from error
    return Shrunk(method, groups, figures)


def _group(plain: Mapping[str, Any]) -> Group:
    features = tuple(Feature(name, ids) for name, ids in plain["tables"].items())
    table = empty_table(plain["method"], plain["config"], features, plain["dim"])
    return Group(features, plain["dim"], plain["method"], plain["config"], table.eval())
