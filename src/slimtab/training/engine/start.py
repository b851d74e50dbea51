"""Choose the engine of a training: this process alone, or the ranks that torchrun started."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from slimtab.config import RunConfig
from slimtab.errors import SlimtabError
from slimtab.schema import Schema
from slimtab.training.device import rank_device
from slimtab.training.engine.base import Engine
from slimtab.training.engine.group import under_torchrun


@contextmanager
def engine_for(config: RunConfig, schema: Schema) -> Iterator[Engine]:
    """Give the engine of a run; ranks have found each other, and are of one mind.

    Raises:
        SlimtabError: when there is no such device, or a rank has other settings, data or versions.
    """
    if not under_torchrun():
        yield Engine(config.training.device)
        return
    from torch import distributed

    from slimtab.training.engine.ranks import RankedEngine

    device = rank_device(config.training.device)
    ours = not distributed.is_initialized()
    if ours:
        _meet(device)
    # Torchrec traces modules; that torch has news about tracing is of no use to those who train.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    try:
        engine = RankedEngine(config, device)
        engine.check(Path(config.data), schema.to_dict())
        yield engine
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise SlimtabError(
            f"rank {distributed.get_rank()} lost another rank, so this training ends; the same command goes "
            "on from the last checkpoint, and with `torchrun --max-restarts 3` it does so by itself"
        ) from error
    finally:
        if ours:
            distributed.destroy_process_group()


def _meet(device: torch.device) -> None:
    """Enter the process group, beside what earlier attempts of the same torchrun left in its store.

    Without ``--standalone`` torchrun keeps one store for all attempts, and ranks would call at the addresses
    of dead ones.
    """
    from torch.distributed.distributed_c10d import PrefixStore, init_process_group
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(iter(rendezvous("env://")))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    init_process_group(backend, store=PrefixStore(f"slimtab/{attempt}", store), rank=rank, world_size=count)


def _is_lost(error: RuntimeError) -> bool:
    """Tell whether an error says that another rank is gone: gloo has no class of its own for that."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)
