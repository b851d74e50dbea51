"""64-bit mixing and salted hashing of ids into table rows, in plain int64 tensor arithmetic.

The mixer is the finalizer of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014). Raw modulo of label-encoded ids is not a hash: ids sorted by frequency alias
systematically. Salts are mixed themselves, so that neighbouring features and probes share no sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from slimtab import kernels

_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - 2**64  # torch has no uint64 arithmetic: two's complement wraps the same
_MULTIPLY_2 = 0x94D049BB133111EB - 2**64
_BITS = 31  # of the mixed word that choose the row; rows · 2**31 stays inside int64
MAX_ROWS = 2**_BITS


def _fold(x: Tensor, bits: int) -> Tensor:
    """Return ``x`` xor its logical (zero-filling) shift, for int64's own shift copies the sign.

    In place but for the first step: at the size of a batch, fetching memory costs more than arithmetic.
    """
    return (x >> bits).bitwise_and_(2 ** (64 - bits) - 1).bitwise_xor_(x)


def mix64(x: Tensor) -> Tensor:
    """Scramble int64 of any shape; a bijection, so distinct inputs never meet."""
    if kernels.ready(x):
        from slimtab.kernels import hashing as compiled  # numba takes a while, and is not always there

        return compiled.mix64(x)
    x = _fold(x, 30).mul_(_MULTIPLY_1)
    x = _fold(x, 27).mul_(_MULTIPLY_2)
    return _fold(x, 31)


def salted_words(ids: Tensor, slot: Tensor, salt: Tensor) -> Tensor:
    """Return mixed words [N, W] for ``ids`` [N] of the features ``slot`` [N] with ``salt`` [F, W]."""
    # Word by word, which keeps each in the cache: broadcasting over short rows is slower than stacking.
    columns = salt.unbind(dim=1)
    return torch.stack([mix64(ids ^ column.index_select(0, slot)) for column in columns], dim=1)


def make_salts(names: Sequence[str], probes: int, seed: int = 0) -> Tensor:
    """Return salts [len(names), probes] int64, fixed by feature name, probe number and ``seed``.

    They depend on the name and not on the position, so adding a feature moves no other feature's rows.
    """
    words = [
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
        for name in names
    ]
    by_name = mix64(torch.tensor(words, dtype=torch.int64) ^ seed)
    by_probe = mix64(torch.arange(1, probes + 1))
    return mix64(by_name[:, None] ^ by_probe[None, :])


def hash_rows(ids: Tensor, salt: Tensor, rows: Tensor | int) -> Tensor:
    """Hash ``ids`` into ``[0, rows)``.

    Args:
        ids: int64, any shape, any value.
        salt: int64, broadcast against ``ids``.
        rows: table rows, at most 2³¹, broadcast against ``ids``.
    """
    words = ids ^ salt
    if kernels.ready(words):
        from slimtab.kernels import hashing as compiled

        return compiled.hash_rows(words, rows)
    top = mix64(words).bitwise_right_shift_(64 - _BITS).bitwise_and_(2**_BITS - 1)
    return (top * rows).bitwise_right_shift_(_BITS)


def spread(words: Tensor, places: Tensor | int) -> Tensor:
    """Map each half of mixed ``words`` [..., W] to ``[0, places)``: [..., 2W], two for the price of one mix.

    Args:
        words: results of :func:`mix64`.
        places: how many there are, at most 2³¹, broadcast against the result.
    """
    halves = words.contiguous().view(torch.int32).long().add_(2**31)
    return halves.mul_(places).bitwise_right_shift_(32)
