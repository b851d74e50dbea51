"""The card of a served model, ``model.json``: what it is, how good it was, which columns it is for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimtab.data.encode import Encoder
from slimtab.errors import SlimtabError


def read_card(folder: Path) -> dict[str, Any]:
    """Return what ``model.json`` of a frozen or exported folder says.

    Raises:
        SlimtabError: when it is missing or damaged, or a file that it names is cut short.
    """
    try:
        card: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if not isinstance(card, dict) or "schema_fingerprint" not in card:
            raise ValueError("it is no card of a model")
    except (OSError, ValueError) as error:
        raise SlimtabError(
            f"no frozen model at {folder} ({error}); `slimtab train` makes one when it ends"
        ) from error
    for name, nbytes in card.get("files", {}).items():
        there = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if there != nbytes:
            raise SlimtabError(
                f"{folder / name} holds {there} bytes, not {nbytes}: it is cut short or another one; "
                "export the run again"
            )
    return card


def load_encoder(folder: Path, card: Mapping[str, Any]) -> Encoder:
    """Return the encoder that turns raw rows into what the model takes.

    Raises:
        SlimtabError: when it is missing, damaged, or belongs to other columns.
    """
    encoder = Encoder.load(folder / "encoder")
    if encoder.schema.fingerprint() != card["schema_fingerprint"]:
        raise SlimtabError(f"{folder}/encoder belongs to other columns than the model; freeze the run again")
    return encoder
