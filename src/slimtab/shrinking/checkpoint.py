"""Checkpoints from elsewhere: names and tensors, mapped from the file where its format allows it.

Nothing in a file is run: safetensors cannot hold code, and PyTorch's own files are read with
``weights_only=True``, which refuses what would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from slimtab.errors import SlimtabError

_NESTED = ("state_dict", "model_state_dict", "model", "module")  # where training code puts weights
_SAFE = ".safetensors"
# Parts of names under which torchrec keeps tables.
_COLLECTIONS = ("embedding_bags", "embeddings")


def read_checkpoint(path: Path, trust: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Args:
        path: a safetensors file, or what ``torch.save`` wrote of a ``state_dict``, perhaps inside a mapping.
        trust: run the code that the file holds, if it does.

    Raises:
        SlimtabError: when it is missing or damaged, holds code, or holds no tensors.
    """
    if not path.is_file():
        raise SlimtabError(
            f"no checkpoint at {path}; give a .pt, .pth or .safetensors file, or the folder of a run"
        )
    loaded = _read_safetensors(path) if path.suffix == _SAFE else _read_torch(path, trust)
    found = _tensors(loaded)
    if not found:
        raise SlimtabError(f"{path} holds no tensors by name; save the model's state_dict()")
    if all(name.startswith("module.") for name in found):  # DistributedDataParallel puts it there
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def find_tables(
    tensors: Mapping[str, Tensor], min_ids: int = 1000, patterns: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Return the embedding tables among ``tensors``, by name without ``.weight``.

    Without ``patterns`` those are what torchrec's collections hold, and all else that looks like one: floats
    [ids, dim] called ``weight`` without a ``bias`` beside them, at least ``min_ids`` and more ids than
    coordinates. A tensor under several names is one table, under the first.

    Args:
        tensors: of a checkpoint.
        min_ids: smaller ones stay as they are; those that a pattern names do not.
        patterns: names with ``*`` for any letters; each must find a table.

    Raises:
        SlimtabError: when a pattern finds none, or there is none at all.
    """
    tables: dict[str, Tensor] = {}
    seen = set()
    matrices = {
        name: tensor for name, tensor in tensors.items() if tensor.dim() == 2 and tensor.is_floating_point()
    }
    if patterns:
        for pattern in patterns:
            if not any(fnmatchcase(_short(name), pattern) for name in matrices):
                raise SlimtabError(
                    f"--tables {pattern} is none of the checkpoint's tables; it has "
                    f"{_listed([_short(name) for name in matrices])}"
                )
        chosen = [name for name in matrices if any(fnmatchcase(_short(name), p) for p in patterns)]
    else:
        chosen = [name for name in matrices if _looks_like_table(name, tensors, min_ids)]
    for name in chosen:
        place = (matrices[name].data_ptr(), matrices[name].shape)
        if place not in seen:
            seen.add(place)
            tables[_short(name)] = matrices[name]
    if not tables:
        raise SlimtabError(
            f"no embedding table of {min_ids} ids or more among {_listed([_short(n) for n in matrices])}; "
            "name some with --tables, or lower --min-ids"
        )
    return tables


def without_tables(tensors: Mapping[str, Tensor], tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of all tensors that are no table, nor another name of one."""
    places = {(table.data_ptr(), table.shape) for table in tables.values()}
    return {
        name: tensor.clone()
        for name, tensor in tensors.items()
        if (tensor.data_ptr(), tensor.shape) not in places
    }


def _short(name: str) -> str:
    return name.removesuffix(".weight")


def _looks_like_table(name: str, tensors: Mapping[str, Tensor], min_ids: int) -> bool:
    parts, (ids, dim) = name.split("."), tensors[name].shape
    if ids < min_ids:
        return False
    if len(parts) > 2 and parts[-3] in _COLLECTIONS:
        return True
    return parts[-1] == "weight" and f"{_short(name)}.bias" not in tensors and ids > dim


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"


def _tensors(loaded: Any) -> dict[str, Tensor]:
    """Return the tensors of a mapping, or of the first mapping inside it that has any."""
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    if not isinstance(loaded, Mapping):
        return {}
    found = {str(name): value.detach() for name, value in loaded.items() if isinstance(value, Tensor)}
    if found:
        return found
    inside = [loaded[name] for name in _NESTED if name in loaded]
    for value in [*inside, *loaded.values()]:
        if found := _tensors(value):
            return found
    return {}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise SlimtabError(f"{path} is damaged ({error}); save or copy it again") from error


def _read_torch(path: Path, trust: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=is_zipfile(path), weights_only=not trust)
    except UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise _unreadable(path, error) from error
        raise SlimtabError(
            f"{path} holds code ({code[1]}), which loading would run; save the model's state_dict() alone, "
            "or pass --trust if you know who made the file"
        ) from error
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, AttributeError, ImportError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SlimtabError:
    reason = " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__
    return SlimtabError(f"{path} cannot be read ({reason}); save or copy it again")
