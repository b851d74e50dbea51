"""Export: a frozen model becomes a folder that serves it in one of several formats."""

from __future__ import annotations

import importlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import slimtab
from slimtab.errors import SlimtabError, nearest
from slimtab.files import write_errors_explained, written_folder
from slimtab.serving.card import load_encoder, read_card
from slimtab.serving.formats import FORMATS
from slimtab.serving.freeze import map_model
from slimtab.serving.program import Program


def export(frozen: Path, name: str, out: Path) -> dict[str, Any]:
    """Write a folder that :func:`slimtab.serving.load` opens: program, encoder, card.

    Args:
        frozen: a run's frozen model.
        name: of the format.
        out: folder to make; an earlier export there is replaced only when the new one is whole.

    Returns:
        The card, as in ``model.json``.

    Raises:
        SlimtabError: when the format is unknown or lacks a package, the frozen model is damaged, or ``out``
            cannot be written or holds something else.
    """
    if name not in FORMATS:
        raise SlimtabError(f"no format '{name}'{nearest(name, FORMATS)}")
    card = read_card(frozen)
    if out.exists() and "format" not in _card_of(out):
        raise SlimtabError(f"{out} exists and is no export; choose another folder with -o")
    encoder = load_encoder(frozen, card)
    program = Program(map_model(frozen, card, encoder.schema))
    with write_errors_explained(out.parent), written_folder(out) as beside:
        importlib.import_module(f"slimtab.serving.formats.{name}").write(program, frozen, beside)
        encoder.save(beside / "encoder")
        card |= _described(program, name, beside)
        (beside / "model.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


def _card_of(folder: Path) -> dict[str, Any]:
    try:
        return read_card(folder)
    except SlimtabError:
        return {}


def _described(program: Program, name: str, folder: Path) -> dict[str, Any]:
    """Return what the card says beyond that of the frozen model."""
    tables = program.model.tables.state_dict()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "format": name,
        "inputs": list(program.names()),
        "output": "logit",
        "bytes_by_structure": {key: value.numel() * value.element_size() for key, value in tables.items()},
        "files": {str(path.relative_to(folder)): path.stat().st_size for path in files},
        "export_versions": {
            "slimtab": slimtab.__version__,
            "python": platform.python_version(),
            "torch": version("torch"),
        },
    }
