"""Two lots of generators on each rank: some that stand alike on all of them, and some of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from slimtab.training.generators import generator_states, set_generators


class Draws:
    """Says which generators torch draws from: the common ones, unless told otherwise.

    Args:
        rank: this process's number.
        device: where it trains.
    """

    def __init__(self, rank: int, device: torch.device) -> None:
        self.rank, self.device = rank, device
        self._aside = generator_states(device)  # of those that are not drawn from

    @contextmanager
    def own(self) -> Iterator[None]:
        """Draw from generators of this rank's own, that depend on where the common ones stand."""
        seed = int(torch.randint(2**62, ()))
        self._aside = generator_states(self.device)
        torch.manual_seed(seed + self.rank)
        try:
            yield
        finally:
            set_generators(self._aside, self.device)

    def swap(self) -> None:
        """Within :meth:`own`, go on drawing from the others; every second call goes back."""
        here = generator_states(self.device)
        set_generators(self._aside, self.device)
        self._aside = here
