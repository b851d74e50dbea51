"""Token counts → vocabulary, in bounded memory however many distinct tokens a column has.

Each chunk already holds its tokens by dictionary, so counting touches text only once per chunk and token.
A column's dictionaries are spread over parts by token hash, so that one part fits in memory; each part
is counted and sorted by itself; then the sorted parts are cut at common splitters into ranges that are
merged one at a time (sample sort: Frazer & McKellar, JACM 1970). Small columns are the case of one part.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimtab.data.chunks import Chunk
from slimtab.data.encode import dictionary_of
from slimtab.data.split import Split
from slimtab.data.tokens import hash_tokens
from slimtab.data.vocabulary import PARQUET_SCHEMA
from slimtab.errors import SlimtabError
from slimtab.files import written

_ORDER = [("count", "descending"), ("token", "ascending")]
_SAMPLES_PER_RANGE = 16


@dataclass(frozen=True)
class TokenIds:
    """The id of every token in every chunk's dictionary of one feature, on disk.

    Attributes:
        feature: the feature.
        paths: one file per part, each with one record batch per chunk: positions in the dictionary, ids.
    """

    feature: str
    paths: tuple[Path, ...]

    def of_chunk(self, number: int, chunk: Chunk) -> np.ndarray:
        """Return the ids [distinct] int32 of the dictionary of chunk ``number``, in its order."""
        ids = np.zeros(chunk.distinct[self.feature], dtype=np.int32)
        for path in self.paths:
            with pa.memory_map(str(path)) as source:
                batch = pa.ipc.open_file(source).get_batch(number)
                ids[batch.column("place").to_numpy()] = batch.column("id").to_numpy()
        return ids


def plan_ids(feature: str, index: int, chunks: Sequence[Chunk], limit: int, work: Path) -> TokenIds:
    """Return where the ids of a feature will stand; ``limit`` is the number of tokens held at a time."""
    parts = max(1, -(-sum(chunk.distinct[feature] for chunk in chunks) // limit))
    return TokenIds(feature, tuple(work / f"{index}-{part}.ids" for part in range(parts)))


def build_vocabulary(
    feature: str,
    chunks: Sequence[Chunk],
    split: Split,
    min_count: int,
    ids: TokenIds,
    limit: int,
    target: Path,
) -> int:
    """Count a feature's tokens on training rows, and write its vocabulary and the ids of all its tokens.

    Ids 1, 2, … go by falling count, then by token. Row 0 of the vocabulary has no token: its count is
    that of all training tokens without an id.

    Args:
        feature: name of the column.
        chunks: all parsed rows.
        split: which of them are for training.
        min_count: smallest count that gives an id.
        ids: where to write the ids, as :func:`plan_ids` says.
        limit: number of tokens to hold in memory at a time.
        target: the vocabulary's Parquet file, written last: where it exists, all is done.

    Returns:
        Number of tokens with an id.
    """
    spills = [path.with_suffix(".spill") for path in ids.paths]
    _spread(feature, chunks, split, spills)
    runs = [_count(spill, min_count) for spill in spills]
    with written(target) as beside:
        kept = _merge(runs, limit, beside)
        for spill, path, run in zip(spills, ids.paths, runs, strict=True):
            with written(path) as ids_beside:
                _write_ids(spill, run, ids_beside)
        for path in (*spills, *(file for run in runs for file in run.files)):
            path.unlink()
    return kept


def _spread(feature: str, chunks: Sequence[Chunk], split: Split, spills: list[Path]) -> None:
    """Write each chunk's tokens with their training counts and places, spread over parts by hash."""
    schema = pa.schema([("token", pa.string()), ("count", pa.int64()), ("place", pa.int32())])
    with ExitStack() as stack:
        writers = []
        for path in spills:
            sink = stack.enter_context(pa.OSFile(str(path), "wb"))
            writers.append(stack.enter_context(pa.ipc.new_file(sink, schema)))
        for number, chunk in enumerate(chunks):
            (column,) = chunk.columns(feature)
            tokens = dictionary_of(column)
            rows = split.rows_of(number, "train")
            # A slice where the rows are consecutive: taking them one by one would copy the column.
            whole = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
            training = column.slice(rows[0], len(rows)) if whole else column.take(pa.array(rows))
            if isinstance(training, pa.ListArray):
                training = training.flatten()
            counts = np.bincount(training.indices.to_numpy(), minlength=len(tokens))
            batch = pa.record_batch(
                [tokens, pa.array(counts, pa.int64()), pa.array(np.arange(len(tokens), dtype=np.int32))],
                schema=schema,
            )
            if len(writers) == 1:
                writers[0].write_batch(batch)
                continue
            parts = hash_tokens(tokens, salt=0) % len(writers)
            for part, writer in enumerate(writers):
                writer.write_batch(batch.take(pa.array(np.flatnonzero(parts == part))))


@dataclass
class _Run:
    """One part's tokens that get an id, sorted; files in the part's own name.

    Attributes:
        tokens: Arrow file with token and count, sorted by falling count, then token.
        ranks: for each spilled token, its row in ``tokens``, −1 where it gets no id (int32, no header).
        ids: the id of each row of ``tokens`` (int32, no header), filled in by the merge.
        kept: number of rows.
        dropped: training count of the tokens without an id.
    """

    tokens: Path
    ranks: Path
    ids: Path
    kept: int
    dropped: int

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.tokens, self.ranks, self.ids)

    def table(self) -> pa.Table:
        with pa.memory_map(str(self.tokens)) as source:
            return pa.ipc.open_file(source).read_all()


def _count(spill: Path, min_count: int) -> _Run:
    with pa.memory_map(str(spill)) as source:
        table = pa.ipc.open_file(source).read_all()
        encoded = table["token"].combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy()
        # Sums of integers in float64 are exact up to 2⁵³ rows.
        counts = np.bincount(
            codes, weights=table["count"].to_numpy(), minlength=len(encoded.dictionary)
        ).astype(np.int64)
        del table
    keep = np.flatnonzero(counts >= min_count)
    kept = pa.table({"token": encoded.dictionary.take(pa.array(keep)), "count": counts[keep]})
    order = pa.compute.sort_indices(kept, sort_keys=_ORDER)
    rank_of = np.full(len(counts), -1, dtype=np.int32)
    rank_of[keep[order.to_numpy()]] = np.arange(len(keep), dtype=np.int32)
    dropped = int(counts.sum() - counts[keep].sum())
    run = _Run(
        spill.with_suffix(".run"),
        spill.with_suffix(".ranks"),
        spill.with_suffix(".newids"),
        len(keep),
        dropped,
    )
    rank_of[codes].tofile(run.ranks)
    with pa.OSFile(str(run.tokens), "wb") as sink, pa.ipc.new_file(sink, kept.schema) as writer:
        writer.write_table(kept.take(order))
    return run


def _merge(runs: list[_Run], limit: int, target: Path) -> int:
    """Write the vocabulary from the sorted runs, and each run's ids; return the number of ids."""
    total = sum(run.kept for run in runs)
    if total >= 2**31 - 1:
        raise SlimtabError(f"{target.stem} has {total} distinct tokens, more than int32 ids; use --ids hash")
    tables = [run.table() for run in runs]
    new_ids = [np.memmap(run.ids, np.int32, "w+", shape=max(run.kept, 1)) for run in runs]
    with pq.ParquetWriter(target, PARQUET_SCHEMA, compression="zstd", use_dictionary=False) as writer:
        head = {"token": [None], "id": [0], "count": [sum(run.dropped for run in runs)]}
        writer.write_table(pa.table(head, schema=PARQUET_SCHEMA))
        first = 1
        for cuts in _ranges(tables, max(1, -(-total // limit))):
            parts = [table.slice(low, high - low) for table, (low, high) in zip(tables, cuts, strict=True)]
            merged = pa.concat_tables(parts)
            order = pa.compute.sort_indices(merged, sort_keys=_ORDER).to_numpy()
            ids = np.arange(first, first + len(order), dtype=np.int32)
            placed = np.empty(len(order), dtype=np.int32)
            placed[order] = ids
            lengths = [high - low for low, high in cuts]
            for stored, (low, high), piece in zip(
                new_ids, cuts, np.split(placed, np.cumsum(lengths)[:-1]), strict=True
            ):
                stored[low:high] = piece
            sorted_table = merged.take(pa.array(order))
            writer.write_table(
                pa.table([sorted_table["token"], pa.array(ids), sorted_table["count"]], schema=PARQUET_SCHEMA)
            )
            first += len(order)
    return total


def _ranges(tables: list[pa.Table], count: int) -> Iterator[list[tuple[int, int]]]:
    """Yield, for each of ``count`` ranges of the common order, the rows of each sorted table in it."""
    samples = []
    for table in tables:
        step = max(1, table.num_rows // (_SAMPLES_PER_RANGE * count)) if count > 1 else table.num_rows + 1
        samples += [_key(table, row) for row in range(step, table.num_rows, step)]
    samples.sort()
    splitters = [samples[len(samples) * i // count] for i in range(1, count)] if samples else []
    lows = [0] * len(tables)
    for splitter in splitters:
        highs = [
            bisect.bisect_left(range(table.num_rows), splitter, key=lambda row, table=table: _key(table, row))  # type: ignore[misc]
            for table in tables
        ]
        yield list(zip(lows, highs, strict=True))
        lows = highs
    yield list(zip(lows, [table.num_rows for table in tables], strict=True))


def _key(table: pa.Table, row: int) -> tuple[int, str]:
    return -table["count"][row].as_py(), table["token"][row].as_py()


def _write_ids(spill: Path, run: _Run, target: Path) -> None:
    """Write the id of each spilled token: one record batch per chunk."""
    # Without headers: numpy parses those by `ast`, which before Python 3.11.8 fails in threads now and then.
    new_ids = np.memmap(run.ids, np.int32, "r")
    # An empty file cannot be mapped.
    ranks = np.memmap(run.ranks, np.int32, "r") if run.ranks.stat().st_size else np.empty(0, np.int32)
    schema = pa.schema([("place", pa.int32()), ("id", pa.int32())])
    start = 0
    with (
        pa.memory_map(str(spill)) as source,
        pa.OSFile(str(target), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            places = reader.get_batch(number).column("place")
            rank = ranks[start : start + len(places)]
            ids = np.where(rank >= 0, new_ids[np.maximum(rank, 0)], np.int32(0))
            writer.write_batch(pa.record_batch([places, pa.array(ids)], schema=schema))
            start += len(places)
