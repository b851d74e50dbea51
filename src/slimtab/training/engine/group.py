"""The ranks of a training, and how they talk: tensors of any length, plain values, and who is there."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from slimtab.errors import SlimtabError

LEADER = 0


def under_torchrun() -> bool:
    """Tell whether this process was started as one of several ranks."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def gather(tensor: Tensor) -> list[Tensor]:
    """Return every rank's ``tensor``, whose first dimension may differ from rank to rank, on all of them."""
    counts = _counts(tensor)
    padded = _padded(tensor, max(counts))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return [part[:count] for part, count in zip(parts, counts, strict=True)]


def gather_to_leader(tensor: Tensor) -> list[Tensor]:
    """Return on the leader what :func:`gather` returns, and nothing on other ranks."""
    counts = _counts(tensor)
    padded = _padded(tensor, max(counts))
    if dist.get_rank() != LEADER:
        dist.gather(padded, dst=LEADER)
        return []
    parts = [torch.empty_like(padded) for _ in counts]
    dist.gather(padded, parts, dst=LEADER)
    return [part[:count] for part, count in zip(parts, counts, strict=True)]


def _counts(tensor: Tensor) -> list[int]:
    """Return the length of every rank's ``tensor``."""
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(tensor)]))
    return [int(count) for count in counts]


def _padded(tensor: Tensor, length: int) -> Tensor:
    padded = tensor.new_zeros(length, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    return padded


def gather_values(values: Any) -> list[Any]:
    """Return every rank's plain ``values`` on all of them. They travel as JSON: nothing is unpickled."""
    text = np.frombuffer(json.dumps(values).encode(), dtype=np.uint8)
    return [json.loads(part.numpy().tobytes()) for part in gather(torch.from_numpy(text.copy()))]


def broadcast_values(values: Any) -> Any:
    """Return the leader's plain ``values`` on every rank; what others give is not looked at."""
    leads = dist.get_rank() == LEADER
    text = np.frombuffer(json.dumps(values if leads else None).encode(), dtype=np.uint8)
    count = torch.tensor([len(text)])
    dist.broadcast(count, LEADER)
    sent = torch.from_numpy(text.copy()) if leads else torch.empty(int(count), dtype=torch.uint8)
    dist.broadcast(sent, LEADER)
    return json.loads(sent.numpy().tobytes())


def check_alike(values: dict[str, Any]) -> None:
    """See that all ranks give the same plain values.

    Raises:
        SlimtabError: on every rank, naming the first rank that differs from rank 0, and in what.
    """
    ranks = gather_values(values)
    for rank, other in enumerate(ranks[1:], start=1):
        for name, value in ranks[0].items():
            if other.get(name) != value:
                raise SlimtabError(
                    f"rank {rank} has another {name} than rank 0 ({other.get(name)}, not {value}); "
                    "start all ranks with the same command, data and installation"
                )
