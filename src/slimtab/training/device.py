"""Where a training computes: on this machine's processors or on a GPU."""

from __future__ import annotations

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
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise SlimtabError(f"training.device is '{wanted}'; give auto, cpu, cuda, or cuda:1 and the like")
    seen = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= seen:
        there = f"{seen} GPU(s)" if seen else "no GPU"
        raise SlimtabError(
            f"training.device is '{wanted}', and torch sees {there} here; set it to cpu or auto"
        )
    return device


def peak_device_memory(device: torch.device) -> int:
    """Return the most bytes that tensors have held on a GPU so far; 0 for processors."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def device_name(device: torch.device) -> str:
    """Return what a GPU calls itself, and ``cpu`` for processors."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
