"""Two generators on each rank: one that stands alike on all of them, and one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Draws:
    """Says which generator torch draws from: the common one, unless told otherwise.

    Args:
        rank: this process's number.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._aside = torch.get_rng_state()  # of the generator that is not drawn from

    @contextmanager
    def own(self) -> Iterator[None]:
        """Draw from a generator of this rank's own, that depends on where the common one stands."""
        seed = int(torch.randint(2**62, ()))
        self._aside = torch.get_rng_state()
        torch.manual_seed(seed + self.rank)
        try:
            yield
        finally:
            torch.set_rng_state(self._aside)

    def swap(self) -> None:
        """Within :meth:`own`, go on drawing from the other one; every second call goes back."""
        here = torch.get_rng_state()
        torch.set_rng_state(self._aside)
        self._aside = here
