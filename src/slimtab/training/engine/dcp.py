"""Checkpoints of many ranks, by ``torch.distributed.checkpoint``: a folder of safetensors files.

Each rank writes the blocks it holds, and the ranks share the writing of what all of them hold. Which rank
wrote what does not matter to those who read: any number of ranks may. The files hold tensors and nothing
else; plain values stand in ``state.json`` beside them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from slimtab.errors import SlimtabError
from slimtab.training.checkpoint import KEPT, STATE, step_folders
from slimtab.training.engine.group import LEADER

BLOCK = ".block."  # in the names of tensors that one rank alone holds


def save_folder(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write what the ranks hold at ``path``, whole or not at all; all ranks call it."""
    beside = path.with_name(path.name + ".tmp")
    leads = dist.get_rank() == LEADER
    if leads:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    dist.barrier()
    # A tensor without dimensions cannot be read in part, as any tensor is here.
    held = {name: value.detach().cpu().reshape(value.shape or (1,)) for name, value in tensors.items()}
    save(held, storage_writer=HuggingFaceStorageWriter(str(beside), save_distributed=True))
    if leads:
        scalars = [name for name, value in tensors.items() if not value.shape]
        with (beside / STATE).open("w", encoding="utf-8") as file:
            json.dump({"state": dict(metadata), "scalars": scalars}, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # a folder cannot be renamed over another
            shutil.rmtree(_before(path), ignore_errors=True)
            path.rename(_before(path))
        beside.rename(path)
        shutil.rmtree(_before(path), ignore_errors=True)
    dist.barrier()


def load_folder(path: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what this rank needs of :func:`save_folder`'s tensors: all but blocks that other ranks hold.

    Args:
        path: the folder.
        own: tensors that this rank holds under those names. Its blocks are read in place.

    Raises:
        SlimtabError: when a file is absent or damaged.
    """
    if not path.exists() and _before(path).exists():  # killed between two renames
        path = _before(path)
    wanted: dict[str, Tensor] = {}
    try:
        kept = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
        for name, about in kept.items():
            assert isinstance(about, TensorStorageMetadata)
            if BLOCK not in name:
                wanted[name] = torch.empty(about.size, dtype=about.properties.dtype)
            elif name in own:
                wanted[name] = own[name].detach()
        load(wanted, storage_reader=HuggingFaceStorageReader(str(path)))
        scalars = _read_json(path)["scalars"]
    except (CheckpointException, SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    absent = sorted(name for name in own if BLOCK in name and name not in wanted)
    if absent:
        raise SlimtabError(f"{path} lacks {absent[0]}; delete it to go on without it")
    return wanted | {name: wanted[name].reshape(()) for name in scalars}


def _before(path: Path) -> Path:
    return path.with_name(path.name + ".before")


def read_state(path: Path) -> dict[str, Any]:
    """Return the plain values of :func:`save_folder`.

    Raises:
        SlimtabError: when they are absent or damaged.
    """
    try:
        state: dict[str, Any] = _read_json(path)["state"]
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    return state


def _read_json(path: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    return plain


def _damaged(path: Path, error: BaseException) -> SlimtabError:
    return SlimtabError(f"{path} is damaged ({error}); delete it to go on without it")


def save_step(folder: Path, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write ``step-<step>`` in ``folder`` and drop all but the newest few; all ranks call it."""
    save_folder(folder / f"step-{step:010d}", tensors, metadata)
    if dist.get_rank() == LEADER:
        for old in step_folders(folder)[:-KEPT]:
            shutil.rmtree(old)
