"""Raw files → a dataset folder: parse, count, write, each in pieces that survive a kill.

1. *Parse*: blocks of the raw files become chunks: numbers as read, tokens by dictionary.
2. *Fit*, on training rows: a vocabulary per feature, mean and deviation of standardised columns.
3. *Write*: chunks become shards, the finished folder gets its name.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from slimtab.data.chunks import Chunk, write_chunk
from slimtab.data.columns import describe_columns, draft_schema
from slimtab.data.counting import TokenIds, build_vocabulary, plan_ids
from slimtab.data.layout import Layout
from slimtab.data.manifest import MANIFEST, Workspace, write_json
from slimtab.data.options import PrepOptions
from slimtab.data.readers import BLOCK_BYTES, Piece, RawReader, open_reader
from slimtab.data.shards import plan_shards, write_shard
from slimtab.data.sketch import DistinctSketch
from slimtab.data.sources import find_sources
from slimtab.data.split import Split
from slimtab.data.sports import SportsReader, find_sports
from slimtab.data.transforms import Moments
from slimtab.errors import SlimtabError
from slimtab.files import write_errors_explained, written
from slimtab.schema import SPLITS, Feature, Numeric, Schema
from slimtab.sizes import format_bytes, parse_bytes

__all__ = ["PrepOptions", "prepare"]

LEAST_MEMORY = 256 * 10**6
_WORKERS = min(os.cpu_count() or 1, 8)
# Measured: a block costs about ten times its bytes while it is parsed and encoded, and a token 400 bytes
# while its part is counted; the rest of the memory is for the libraries and the page cache's share.
_BLOCK_COST = 10
_TOKEN_COST = 400

T = TypeVar("T")


def prepare(source: Path, out: Path, options: PrepOptions, progress: bool = True) -> Schema:
    """Turn raw files into a dataset folder.

    Run again after a kill, it goes on where it stopped, and the dataset is the same to the byte. Where
    ``out`` holds the dataset already, it is left as it is.

    Args:
        source: a raw file, or a folder of them.
        out: the dataset folder to make: absent or empty, or this very dataset.
        options: what to do.
        progress: report on standard error, with bars where it is a terminal.

    Returns:
        The dataset's schema.

    Raises:
        SlimtabError: when the raw files or the settings are not usable, too many rows are malformed, the
            disk is full, or ``out`` holds something else.
    """
    memory = parse_bytes(options.max_memory)
    if memory < LEAST_MEMORY:
        raise SlimtabError(
            f"max_memory {format_bytes(memory)} is too little; prep needs {format_bytes(LEAST_MEMORY)}"
        )
    find = find_sports if options.kind == "sports" else partial(find_sources, kind=options.kind)
    sources: tuple[Path, ...] = find(source)
    workspace = Workspace(out, options, sources)
    if workspace.finished():
        _say(progress, f"{out} is there already, made from the same files with the same settings")
        return Schema.load(out / "schema.json")
    with write_errors_explained(out.parent if out.parent.exists() else Path()):
        sizes = {
            "block_bytes": min(BLOCK_BYTES, memory // (2 * _BLOCK_COST * (_WORKERS + 1))),
            "tokens": memory // (2 * _TOKEN_COST * _WORKERS),
        }
        sizes = workspace.open(sizes)
        try:
            if not (workspace.folder / MANIFEST).exists():
                _Prep(workspace, options, sources, progress, sizes).run()
            workspace.publish()
        finally:
            workspace.close()
    return Schema.load(out / "schema.json")


class _Prep:
    """One prep under way."""

    def __init__(
        self,
        workspace: Workspace,
        options: PrepOptions,
        sources: tuple[Path, ...],
        progress: bool,
        sizes: dict[str, int],
    ) -> None:
        self.workspace, self.options, self.sources, self.progress = workspace, options, sources, progress
        self.folder, self.work = workspace.folder, workspace.work
        self.block_bytes, self.token_limit = sizes["block_bytes"], sizes["tokens"]
        self.draft = draft_schema(options)
        for name in ("vocab", *SPLITS):
            if name != "vocab" or options.ids == "vocab":
                (self.folder / name).mkdir(exist_ok=True)

    def run(self) -> None:
        """Do what is not done yet, up to the manifest."""
        readers, bounds = self._readers()
        with ThreadPoolExecutor(_WORKERS) as pool:
            chunks = self._parse(pool, readers)
            rejects = self._check_rejects(chunks)
            split = Split.of([chunk.rows for chunk in chunks], self.options, bounds)
            schema, ids = self._fit(pool, chunks, split)
            files = self._write(pool, schema, chunks, split, ids)
        schema.save(self.folder / "schema.json")
        self._collect_rejects(chunks)
        manifest = {**self.workspace.identity, "rows": schema.rows, "rejects": rejects, "files": files}
        write_json(self.folder / MANIFEST, manifest)

    def _readers(self) -> tuple[list[RawReader], tuple[int, ...] | None]:
        if self.options.kind == "sports":
            sports = SportsReader.open(self.sources[0], self.sources[1], self.options.seed)
            return [sports], sports.bounds
        layout = Layout.of(self.draft)
        opened = [open_reader(path, layout, True, self.block_bytes) for path in self.sources]
        if self.options.kind == "table":
            dropped = describe_columns(self.options.columns).drop
            for reader in opened:
                for name in reader.fields:
                    if name not in layout.types and name not in dropped:
                        raise SlimtabError(
                            f"{reader.path}: column '{name}' has no role; list it in numeric, … or drop"
                        )
        return list(opened), None

    def _parse(self, pool: ThreadPoolExecutor, readers: Sequence[RawReader]) -> list[Chunk]:
        """Pass 1: every block of the raw files becomes a chunk on disk."""
        chunks: list[Chunk] = []
        while (path := self._chunk_path(len(chunks))).exists():
            chunks.append(Chunk.load(path))
        marker = self.work / "parsed.json"
        if marker.exists():
            return chunks
        last = chunks[-1] if chunks else None
        tasks = self._parse_tasks(readers, last, len(chunks))
        with self._bar("parsing", None, "rows") as bar:
            for chunk in _in_order(pool, tasks):
                chunks.append(chunk)
                bar.update(chunk.rows + chunk.rejects)
                self._stop_early(chunks)
        if not any(chunk.rows for chunk in chunks):
            raise SlimtabError(
                f"{self.sources[0]} holds no well-formed rows; is it a {self.options.kind} file?"
            )
        write_json(marker, {"chunks": len(chunks)})
        return chunks

    def _parse_tasks(
        self, readers: Sequence[RawReader], last: Chunk | None, number: int
    ) -> Iterator[Callable[[], Chunk]]:
        start_file = last.file if last else 0
        for file in range(start_file, len(readers)):
            position = (last.end, last.next_line) if last and file == start_file else (0, 1)
            for piece in readers[file].pieces(*position):
                yield self._parse_task(self._chunk_path(number), piece, file)
                number += 1

    def _parse_task(self, path: Path, piece: Piece, file: int) -> Callable[[], Chunk]:
        return lambda: write_chunk(path, piece, file, self.draft)

    def _chunk_path(self, number: int) -> Path:
        return self.work / f"chunk-{number:06d}.arrow"

    def _stop_early(self, chunks: Sequence[Chunk]) -> None:
        """Stop while parsing when the first chunk already shows that the file is of another kind."""
        if len(chunks) == 1 and chunks[0].rejects > chunks[0].rows and self.options.max_rejects < 0.5:
            self._refuse(chunks)

    def _check_rejects(self, chunks: Sequence[Chunk]) -> int:
        rejects = sum(chunk.rejects for chunk in chunks)
        rows = rejects + sum(chunk.rows for chunk in chunks)
        if rejects > self.options.max_rejects * rows:
            self._refuse(chunks)
        if rejects:
            _say(self.progress, f"{rejects} of {rows} rows are malformed; they are listed in rejects.jsonl")
        return rejects

    def _refuse(self, chunks: Sequence[Chunk]) -> None:
        rejects = sum(chunk.rejects for chunk in chunks)
        rows = rejects + sum(chunk.rows for chunk in chunks)
        first = (
            next(chunk for chunk in chunks if chunk.rejects)
            .rejects_path.read_text(encoding="utf-8")
            .split("\n")[0]
        )
        raise SlimtabError(
            f"{rejects} of {rows} rows are malformed, over the limit of {self.options.max_rejects:.2%}; "
            f"the first: {first}; mend the file, or raise --max-rejects"
        )

    def _fit(
        self, pool: ThreadPoolExecutor, chunks: Sequence[Chunk], split: Split
    ) -> tuple[Schema, dict[str, TokenIds]]:
        """Pass 2: fit every column on training rows."""
        features, ids = self.draft.features, {}
        tasks: list[Callable[[], Feature]] = []
        for index, feature in enumerate(features):
            if feature.encoding == "vocab":
                ids[feature.name] = plan_ids(feature.name, index, chunks, self.token_limit, self.work)
            tasks.append(self._fit_feature_task(feature, ids.get(feature.name), chunks, split))
        with self._bar("counting", len(tasks), "columns") as bar:
            fitted = [_updated(bar, feature) for feature in _in_order(pool, tasks)]
        numerics = tuple(_fit_numeric(numeric, chunks, split) for numeric in self.draft.numerics)
        rows = {name: sum(split.count(chunk, name) for chunk in range(len(chunks))) for name in SPLITS}
        names = tuple(path.name for path in self.sources)
        schema = dataclasses.replace(
            self.draft, numerics=numerics, features=tuple(fitted), rows=rows, sources=names
        )
        return schema, ids

    def _fit_feature_task(
        self, feature: Feature, ids: TokenIds | None, chunks: Sequence[Chunk], split: Split
    ) -> Callable[[], Feature]:
        def fit() -> Feature:
            if ids is None:
                return dataclasses.replace(feature, num_ids=_estimate_distinct(feature, chunks, split) + 1)
            target = self.folder / "vocab" / f"{feature.name}.parquet"
            if target.exists():
                known = pq.read_metadata(target).num_rows - 1
            else:
                limit, least = self.token_limit, self.options.token_count
                known = build_vocabulary(feature.name, chunks, split, least, ids, limit, target)
            return dataclasses.replace(feature, num_ids=known + 1)

        return fit

    def _write(
        self,
        pool: ThreadPoolExecutor,
        schema: Schema,
        chunks: Sequence[Chunk],
        split: Split,
        ids: dict[str, TokenIds],
    ) -> dict[str, Any]:
        """Pass 3: write the shards; return rows and bytes of every shard."""
        shards = list(plan_shards(split))

        def task(number: int) -> Callable[[], None]:
            return lambda: write_shard(shards[number], schema, chunks, split, ids, self.folder)

        missing = [number for number, shard in enumerate(shards) if not (self.folder / shard.name).exists()]
        with self._bar("writing", sum(schema.rows.values()), "rows") as bar:
            for number, _ in zip(missing, _in_order(pool, map(task, missing)), strict=True):
                bar.update(shards[number].rows)
        return {
            shard.name: {"rows": shard.rows, "bytes": (self.folder / shard.name).stat().st_size}
            for shard in shards
        }

    def _collect_rejects(self, chunks: Sequence[Chunk]) -> None:
        with written(self.folder / "rejects.jsonl") as beside, beside.open("wb") as file:
            for chunk in chunks:
                if chunk.rejects:
                    file.write(chunk.rejects_path.read_bytes())

    def _bar(self, what: str, total: int | None, unit: str) -> tqdm[Any]:
        # None disables the bar where standard error is not a terminal; short work shows none.
        hidden = None if self.progress else True
        return tqdm(
            desc=what, total=total, unit=f" {unit}", delay=2, disable=hidden, unit_scale=unit == "rows"
        )


def _fit_numeric(numeric: Numeric, chunks: Sequence[Chunk], split: Split) -> Numeric:
    if numeric.transform != "standard":
        return numeric
    moments = Moments()
    for column in _training(numeric.name, chunks, split):
        moments.add(column)
    return moments.fit(numeric.name)


def _estimate_distinct(feature: Feature, chunks: Sequence[Chunk], split: Split) -> int:
    sketch = DistinctSketch()
    for column in _training(feature.name, chunks, split):
        sketch.add((column.flatten() if feature.multi_hot else column).to_numpy())
    return sketch.estimate()


def _training(name: str, chunks: Sequence[Chunk], split: Split) -> Iterator[pa.Array]:
    for number, chunk in enumerate(chunks):
        (column,) = chunk.columns(name)
        yield column.take(pa.array(split.rows_of(number, "train")))


def _in_order(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Run tasks in the pool, one waiting for each worker at most, and yield their results in order."""
    running: deque[Future[T]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(task))
            if len(running) > _WORKERS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def _updated(bar: tqdm[Any], feature: Feature) -> Feature:
    bar.update()
    return feature


def _say(progress: bool, message: str) -> None:
    if progress:
        print(message, file=sys.stderr)
