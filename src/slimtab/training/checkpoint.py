"""Checkpoints: one safetensors file each, so loading never runs code, and a rename makes each one whole.

Tensors (weights, optimizer state, generator state) are the file's tensors; everything else (loader
position, early stopping, learning rates) is JSON in its header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slimtab.errors import SlimtabError
from slimtab.files import written

STATE = "state.json"  # in the folder that several ranks write: see engine/dcp.py
KEPT = 2  # the newest, and one more in case the newest is damaged from outside


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write ``tensors`` and JSON ``metadata`` beside ``path``, flush to disk, rename.

    Raises:
        SlimtabError: when the disk is full or not writable; what was at ``path`` stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as beside:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                beside,
                metadata={"slimtab": json.dumps(metadata)},
            )
            beside.chmod(0o644)  # safetensors makes it readable by its owner alone
    except (OSError, SafetensorError) as error:
        raise SlimtabError(
            f"cannot write {path} ({error}); free some space or choose another folder"
        ) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what :func:`write_tensors` wrote.

    Raises:
        SlimtabError: when the file is absent or damaged.
    """
    with _explained(path), safe_open(path, framework="pt") as file:
        metadata = _metadata(file)
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (no mapping)


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write ``step-<step>.safetensors`` in ``folder`` and drop all but the newest few."""
    path = folder / f"step-{step:010d}.safetensors"
    write_tensors(path, tensors, state)
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEPT]:
        old.unlink()
    return path


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the JSON that :func:`write_tensors` wrote, without reading a tensor.

    Raises:
        SlimtabError: when the file is absent or damaged.
    """
    with _explained(path), safe_open(path, framework="pt") as file:
        return _metadata(file)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, or None; leftovers of an interrupted write do not count."""
    return max(folder.glob("step-*.safetensors"), default=None)


def latest_folder(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of several ranks, or None."""
    return max(step_folders(folder), default=None)


def step_folders(folder: Path) -> list[Path]:
    """Return the whole checkpoints of several ranks, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE}") if not path.parent.suffix)


def _metadata(file: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(file.metadata()["slimtab"])
    return metadata


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SlimtabError(
            f"{path} is missing or damaged ({error}); delete it to go on without it"
        ) from error
