"""How kernels are compiled, and divided among torch's threads."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

BLOCK = 64  # ids that are located, and their memory asked for, before they are read
_HERE = Path(__file__).resolve().parent
_LEAST = 8192  # ids for which another thread is worth waking

inlined: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(inline="always", error_model="numpy")


def kernel(loop: Callable[..., None]) -> Callable[..., None]:
    """Compile ``loop`` when it is first called, for half a second, and keep the code beside the bytecode."""
    try:
        with _folder_of_these_sources():
            compiled: Callable[..., None] = numba.njit(nogil=True, cache=True, error_model="numpy")(loop)
    except RuntimeError:  # there is no folder to keep it in
        compiled = numba.njit(nogil=True, error_model="numpy")(loop)
    return compiled


@contextmanager
def _folder_of_these_sources() -> Iterator[None]:
    """Let numba keep code in a folder named by all kernels' sources.

    It looks at the file of a loop alone, and would go on with code that has old helpers of other files in it.
    """
    given = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = os.path.join(given or _HERE / "__pycache__", _digest())
    try:
        yield
    finally:
        numba.config.CACHE_DIR = given


@functools.cache
def _digest() -> str:
    sources = b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))
    return hashlib.sha256(sources).hexdigest()[:16]


@inlined
def row_of(number, rows: int):
    """Return ``number`` as an index that numba reads as it is; one outside ``rows`` is an error."""
    if number < 0 or number >= rows:
        raise IndexError("index out of range in a compiled lookup")
    return np.uint64(number)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "slimtab-kernels")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads stay behind


def in_parts(loop: Callable[..., None], count: int, *args: Any) -> None:
    """Call ``loop(begin, end, *args)`` for parts that cover ``count`` ids, one for each of torch's threads.

    Tensors among ``args`` are handed on as arrays over the same memory.
    """
    args = tuple(arg.numpy() if isinstance(arg, Tensor) else arg for arg in args)
    threads = min(torch.get_num_threads(), count // _LEAST)
    if threads < 2:
        loop(0, count, *args)
        return
    edges = [count * part // threads for part in range(threads + 1)]
    parts = list(itertools.pairwise(edges))
    others = [_pool(threads - 1).submit(loop, begin, end, *args) for begin, end in parts[1:]]
    try:
        loop(*parts[0], *args)
    finally:
        errors = [other.exception() for other in others]
    for error in errors:
        if error is not None:
            raise error
