"""Where the parts of something begin that stand one after another."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import torch
from torch import Tensor


def starts(sizes: Iterable[int]) -> Tensor:
    """Return where each part of ``sizes`` begins, [len(sizes)] int64: 0, the first size, and so on."""
    return torch.tensor([*accumulate(sizes, initial=0)][:-1], dtype=torch.int64)
