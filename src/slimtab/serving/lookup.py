"""How fast frozen tables are read, against a full float table of the same shape in the same process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor, nn

from slimtab.batch import Batch, Ragged
from slimtab.collection import TableCollection
from slimtab.schema import Feature
from slimtab.tables.hashing import mix64
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.plain import PlainRows

BATCH_ROWS = 4096
_BATCHES = 4  # distinct ones to cycle through
_ROUNDS = 15
_CALLS = 3  # in a turn
_SECONDS = 3.0  # a slow table has fewer rounds


def lookup_speed(tables: TableCollection) -> dict[str, float]:
    """Time lookups of frozen tables in turns with a full table's: processor time of one thread.

    Processor time, because runs side by side interrupt each other, and a long lookup more often than a short
    one: its wall time would be out of all proportion.

    A lookup is what serving does with a batch: ids of 4096 rows in, embeddings [4096, F, dim] out. Each row
    has one id per feature, drawn by Zipf's law: every decade of ranks is equally likely.

    Args:
        tables: a frozen collection.

    Returns:
        ``ms`` and ``full_ms``, medians over rounds; ``ratio``, how many times as long as in the full table a
        lookup takes, the median over rounds; ``ratio_low`` and ``ratio_high``, ends of its middle half.
    """
    features = tables.features
    numbered = [dataclasses.replace(feature, encoding="vocab") for feature in features]
    batches, plain = _batches(features), _batches(numbered)
    full = _full(numbered, tables.dim, plain)
    with torch.inference_mode(), _one_thread():
        own, other = in_turns(
            [
                lambda call: tables.embed(batches[call % _BATCHES]),
                lambda call: full.embed(plain[call % _BATCHES]),
            ],
            _ROUNDS,
            _CALLS,
            _SECONDS,
            time.thread_time,
        )
    ratios = sorted(one / two for one, two in zip(own, other, strict=True))
    return {
        "ms": 1000 * median(own),
        "full_ms": 1000 * median(other),
        "ratio": median(ratios),
        "ratio_low": ratios[len(ratios) // 4],
        "ratio_high": ratios[-1 - len(ratios) // 4],
    }


def in_turns(
    contenders: Sequence[Callable[[int], object]],
    rounds: int,
    calls: int,
    seconds: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Return each contender's median seconds per call in each round: A B C, A B C, ….

    A machine that drifts slows all of a round alike, so ratios are to be taken within rounds.

    Args:
        contenders: functions of a call's number.
        rounds: turns of each.
        calls: timed calls in a turn.
        seconds: begin no other round after so long.
        clock: what calls are timed with.
    """
    found: list[list[float]] = [[] for _ in contenders]
    began = time.perf_counter()
    for _ in range(rounds):
        for look, medians in zip(contenders, found, strict=True):
            look(0)  # caches and sleeping threads, after the others' turns
            times = []
            for call in range(calls):
                start = clock()
                look(call)
                times.append(clock() - start)
            medians.append(median(times))
        if time.perf_counter() - began > seconds:
            break
    return found


class _UnwrittenRows(PlainRows):
    """Rows that take memory only where they are written: a large table is not held to read some of it."""

    def __init__(self, num_rows: int, width: int, init_std: float) -> None:
        super().__init__(0, width, init_std)
        self.num_rows = num_rows
        self.weight = nn.Parameter(torch.empty(num_rows, width))

    def values(self) -> Tensor:
        return self.weight.detach()


def _full(features: Sequence[Feature], dim: int, batches: Sequence[Batch]) -> TableCollection:
    """Return a frozen full table in which the rows of ``batches`` are written."""
    made = TableCollection.build(features, dim, "full", make_rows=_UnwrittenRows, check_ids="oov")
    (rows,) = (module for module in made.modules() if isinstance(module, _UnwrittenRows))
    offset = starts(feature.num_ids for feature in features)
    with torch.no_grad():
        for batch in batches:
            ids = batch.ids.t().reshape(-1)
            if batch.ragged is not None:
                ids = torch.cat([ids, batch.ragged.values])
            rows.weight[ids + offset.repeat_interleave(BATCH_ROWS)] = 0.01
    return made.freeze().eval()


def _batches(features: Sequence[Feature]) -> list[Batch]:
    """Draw the batches, the same ids for the same features whether they are numbered or hashed."""
    generator = torch.Generator().manual_seed(0)
    one_hot = sum(not feature.multi_hot for feature in features)
    names = tuple(feature.name for feature in features)
    batches = []
    for _ in range(_BATCHES):
        ids = torch.stack([_ids(feature, generator) for feature in features])
        lengths = torch.ones_like(ids[one_hot:])
        ragged = Ragged(names[one_hot:], ids[one_hot:].reshape(-1), lengths) if len(lengths) else None
        dense, label = torch.empty(BATCH_ROWS, 0), torch.zeros(BATCH_ROWS)
        batches.append(Batch(dense, names[:one_hot], ids[:one_hot].t().contiguous(), label, ragged))
    return batches


def _ids(feature: Feature, generator: torch.Generator) -> Tensor:
    """Draw ids [4096]; prep numbers them by falling frequency."""
    drawn = torch.rand(BATCH_ROWS, generator=generator, dtype=torch.float64)
    rank = ((feature.num_ids + 1) ** drawn).long().clamp(max=feature.num_ids) - 1
    return rank if feature.encoding == "vocab" else mix64(rank) & torch.iinfo(torch.int64).max


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
