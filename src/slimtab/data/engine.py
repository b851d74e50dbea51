"""Where the pieces of a prep are worked on: threads, processes, or the workers of a Dask cluster.

A piece is a function of a few values that reads files and leaves files, so it runs wherever the files are
seen under the same paths, and it does not matter who runs it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TypeVar

from slimtab.data.options import PrepOptions
from slimtab.errors import SlimtabError

T = TypeVar("T")
_THREADS = min(os.cpu_count() or 1, 8)


@dataclass(frozen=True)
class Engine:
    """Workers for the pieces of a prep.

    Attributes:
        pool: takes the pieces.
        workers: how many of them it works on at a time.
        sharing: how many of them share ``max_memory``.
        shared: whether they share this process's memory; if not, a worker is given whole files, and reads
            them itself.
    """

    pool: Executor
    workers: int
    sharing: int
    shared: bool

    def in_order(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Run tasks, one waiting for each worker at most, and yield their results in order."""
        running: deque[Future[T]] = deque()
        try:
            for task in tasks:
                running.append(self.pool.submit(task))
                if len(running) > self.workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


@contextmanager
def open_engine(options: PrepOptions) -> Iterator[Engine]:
    """Give the workers that the options ask for: threads, processes, or a cluster's.

    Raises:
        SlimtabError: when dask is missing or its scheduler does not answer.
    """
    if options.dask is not None:
        with _cluster(options.dask) as engine:
            yield engine
    elif options.workers:
        # Not forked: a copy of a process that has threads may wait for a lock nobody holds.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.workers, context, _end_with_parent) as pool:
            try:
                yield Engine(pool, options.workers, options.workers, shared=False)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    else:
        with ThreadPoolExecutor(_THREADS) as threads:
            yield Engine(threads, _THREADS, _THREADS, shared=True)


@contextmanager
def _cluster(address: str) -> Iterator[Engine]:
    try:
        from distributed import Client
    except ImportError as error:
        raise SlimtabError("--dask needs dask's scheduler; pip install 'slimtab[dask]'") from error
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SlimtabError(
            f"no Dask scheduler answers at {address}; start one with `dask scheduler` and name its address"
        ) from error
    with client:
        threads = client.nthreads().values()
        if not threads:
            raise SlimtabError(
                f"the Dask cluster at {address} has no workers; start some: `dask worker {address}`"
            )
        yield Engine(client.get_executor(pure=False, retries=2), sum(threads), max(threads), shared=False)


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, so that nobody else writes its files."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
