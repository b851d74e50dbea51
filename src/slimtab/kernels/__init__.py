"""Loops that numba compiles, for lookups that torch's own operations make in many passes over memory.

Each does in one pass what a function beside a table says in plain torch. That function stays: it is what is
recorded, exported and run on a GPU, it serves where numba is not installed, and tests hold both equal.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


@functools.cache
def installed() -> bool:
    """Tell whether numba is here, and allowed to compile."""
    return importlib.util.find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"


def ready(*tensors: Tensor, floats: torch.dtype = torch.float32) -> bool:
    """Tell whether kernels may read ``tensors``: whole, in main memory, and no one records it.

    Those of floating point must be ``floats``, which a model that was cast no longer has.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    if traced or not installed():
        return False
    recorded = torch.is_grad_enabled()
    return all(
        type(tensor) in _PLAIN  # fake tensors, and those of other engines, have no memory to read
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and (tensor.dtype == floats or not tensor.is_floating_point())
        and not (recorded and tensor.requires_grad)
        for tensor in tensors
    )
