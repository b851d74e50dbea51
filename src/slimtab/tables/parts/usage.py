"""How a codebook is used: which of its codes stand for anything, and how evenly."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class CodeUse:
    """Counts codes as they come.

    Args:
        sizes: codes to choose from in each place (level or part) of an id's codes.
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        self._counts = [torch.zeros(size, dtype=torch.int64) for size in sizes]

    def add(self, codes: Tensor, first: int = 0) -> None:
        """Count ``codes`` [N, P] int64 of P places, from the ``first`` on."""
        places = self._counts[first : first + codes.shape[1]]
        for counts, column in zip(places, codes.unbind(dim=1), strict=True):
            counts += torch.bincount(column, minlength=len(counts)).cpu()

    def stats(self) -> dict[str, float]:
        """Return two figures, both 1 where all codes are used alike.

        ``codes_used`` is the share of codes that stand for an id; ``code_entropy`` is the mean over places of
        the codes' entropy, as a share of the largest there can be.
        """
        return {
            "codes_used": float((torch.cat(self._counts) > 0).double().mean()),
            "code_entropy": sum(map(_evenness, self._counts)) / len(self._counts),
        }


def _evenness(counts: Tensor) -> float:
    if len(counts) == 1:
        return 1.0
    shares = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(shares).sum() / torch.tensor(float(len(counts))).log())
