"""Where a training computes: on this machine's processors or on a GPU."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from slimtab.errors import SlimtabError


def pick_device(wanted: str) -> torch.device:
    """Return the device that ``training.device`` asks for.

    Args:
        wanted: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.

    Raises:
        SlimtabError: when it is none of these, or there is no such GPU.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise SlimtabError(f"training.device is '{wanted}'; give auto, cpu, cuda, or cuda:1 and the like")
    device = torch.device(wanted)
    seen = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= seen:
        there = f"{seen} GPU(s)" if seen else "no GPU"
        raise SlimtabError(
            f"training.device is '{wanted}', and torch sees {there} here; set it to cpu or auto"
        )
    return device


def rank_device(wanted: str) -> torch.device:
    """Return the device of this rank: on a machine with a GPU for each of its ranks, one of its own.

    Args:
        wanted: as :func:`pick_device` takes it, but no GPU by number. ``auto`` takes processors where GPUs
            are too few.

    Raises:
        SlimtabError: when a GPU is asked for by number, or there are too few, or as :func:`pick_device` does.
    """
    if ":" in wanted:
        raise SlimtabError(f"ranks take a GPU each, and training.device is '{wanted}'; set it to cuda")
    device = pick_device(wanted)
    if device.type != "cuda":
        return device
    ranks, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if ranks <= gpus:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if wanted == "auto":
        return torch.device("cpu")
    raise SlimtabError(
        f"{ranks} ranks share {gpus} GPU(s) on this machine; start one each, or set training.device=cpu"
    )


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Let a GPU add up in the same order each time: a seed decides the outcome, and ranks stay alike."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS wants for it
    torch_wide: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), torch_wide.fill_uninitialized_memory
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* does not have a deterministic implementation")
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch_wide.fill_uninitialized_memory = False  # nothing here reads what it did not write
            yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        torch_wide.fill_uninitialized_memory = before[1]


def peak_device_memory(device: torch.device) -> int:
    """Return the most bytes that tensors have held on a GPU so far; 0 for processors."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def device_name(device: torch.device) -> str:
    """Return what a GPU calls itself, and ``cpu`` for processors."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
