"""The generators that a training draws from: torch's own, and a GPU's where it trains on one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_HERE, _GPU = "generator", "gpu_generator"


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators that a training on ``device`` draws from."""
    states = {_HERE: torch.get_rng_state()}
    if device.type == "cuda":
        states[_GPU] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what :func:`generator_states` returned; a GPU's may be absent, from a run begun without one."""
    torch.set_rng_state(states[_HERE])
    if device.type == "cuda" and _GPU in states:
        torch.cuda.set_rng_state(states[_GPU], device)
