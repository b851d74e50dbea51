"""Raw files → a dataset folder: parse, count, write, each in pieces that survive a kill.

1. *Parse*: blocks of the raw files become chunks: numbers as read, tokens by dictionary.
2. *Fit*, on training rows: a vocabulary per feature, mean and deviation of standardised columns.
3. *Write*: chunks become shards, the finished folder gets its name.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slimtab.data.chunks import Chunk
from slimtab.data.columns import describe_columns, draft_schema
from slimtab.data.counting import TokenIds, plan_ids
from slimtab.data.engine import Engine, open_engine
from slimtab.data.fitting import estimate_hashes, fit_numeric, number_tokens
from slimtab.data.layout import Layout
from slimtab.data.manifest import MANIFEST, Workspace, write_json
from slimtab.data.options import PrepOptions
from slimtab.data.parsing import FileParser, parse_files
from slimtab.data.readers import BLOCK_BYTES, RawReader, open_reader
from slimtab.data.shards import plan_shards, write_shard
from slimtab.data.sources import find_sources
from slimtab.data.split import Split
from slimtab.data.sports import SportsReader, find_sports
from slimtab.errors import SlimtabError
from slimtab.files import write_errors_explained, written
from slimtab.schema import SPLITS, Feature, Schema
from slimtab.sizes import format_bytes, parse_bytes

__all__ = ["PrepOptions", "prepare"]

LEAST_MEMORY = 256 * 10**6  # of a process
# Measured: a block costs about ten times its bytes while it is parsed and encoded, and a token 400 bytes
# while its part is counted; the rest of the memory is for the libraries and the page cache's share.
_BLOCK_COST = 10
_TOKEN_COST = 400


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
    least = LEAST_MEMORY * max(options.workers, 1)
    if memory < least:
        raise SlimtabError(
            f"max_memory {format_bytes(memory)} is too little; prep needs {format_bytes(least)}"
        )
    find = find_sports if options.kind == "sports" else partial(find_sources, kind=options.kind)
    sources: tuple[Path, ...] = find(source)
    workspace = Workspace(out, options, sources)
    if workspace.finished():
        _say(progress, f"{out} is there already, made from the same files with the same settings")
        return Schema.load(out / "schema.json")
    with (
        write_errors_explained(out.parent if out.parent.exists() else Path()),
        open_engine(options) as engine,
    ):
        sizes = {
            "block_bytes": min(BLOCK_BYTES, memory // (2 * _BLOCK_COST * (engine.sharing + 1))),
            "tokens": memory // (2 * _TOKEN_COST * engine.sharing),
        }
        sizes = workspace.open(sizes)
        try:
            if not (workspace.folder / MANIFEST).exists():
                _Prep(workspace, options, sources, progress, sizes, engine).run()
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
        engine: Engine,
    ) -> None:
        self.workspace, self.options, self.sources, self.progress = workspace, options, sources, progress
        self.engine = engine
        self.folder, self.work = workspace.folder, workspace.work
        self.block_bytes, self.token_limit = sizes["block_bytes"], sizes["tokens"]
        self.draft = draft_schema(options)
        for name in ("vocab", *SPLITS):
            if name != "vocab" or options.ids == "vocab":
                (self.folder / name).mkdir(exist_ok=True)

    def run(self) -> None:
        """Do what is not done yet, up to the manifest."""
        readers, bounds = self._readers()
        chunks = self._parse(readers)
        rejects = self._check_rejects(chunks)
        split = Split.of([chunk.rows for chunk in chunks], self.options, bounds)
        schema, ids = self._fit(chunks, split)
        files = self._write(schema, chunks, split, ids)
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

    def _parse(self, readers: Sequence[RawReader]) -> list[Chunk]:
        """Pass 1: every block of the raw files becomes a chunk on disk."""
        parsers = [FileParser(reader, file, self.draft, self.work) for file, reader in enumerate(readers)]
        chunks: list[Chunk] = []
        with self._bar("parsing", None, "rows") as bar:
            for chunk in parse_files(parsers, self.engine):
                chunks.append(chunk)
                bar.update(chunk.rows + chunk.rejects)
                self._stop_early(chunks)
        if not any(chunk.rows for chunk in chunks):
            raise SlimtabError(
                f"{self.sources[0]} holds no well-formed rows; is it a {self.options.kind} file?"
            )
        return chunks

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

    def _fit(self, chunks: Sequence[Chunk], split: Split) -> tuple[Schema, dict[str, TokenIds]]:
        """Pass 2: fit every column on training rows."""
        features, ids = self.draft.features, {}
        tasks: list[Callable[[], Feature]] = []
        for index, feature in enumerate(features):
            if feature.encoding == "hash":
                tasks.append(partial(estimate_hashes, feature, chunks, split))
                continue
            planned = plan_ids(feature.name, index, chunks, self.token_limit, self.work)
            ids[feature.name] = planned
            target = self.folder / "vocab" / f"{feature.name}.parquet"
            limits = (self.options.token_count, self.token_limit)
            tasks.append(partial(number_tokens, feature, planned, chunks, split, *limits, target))
        with self._bar("counting", len(tasks), "columns") as bar:
            fitted = [_updated(bar, feature) for feature in self.engine.in_order(tasks)]
        numerics = tuple(fit_numeric(numeric, chunks, split) for numeric in self.draft.numerics)
        rows = {name: sum(split.count(chunk, name) for chunk in range(len(chunks))) for name in SPLITS}
        names = tuple(path.name for path in self.sources)
        schema = dataclasses.replace(
            self.draft, numerics=numerics, features=tuple(fitted), rows=rows, sources=names
        )
        return schema, ids

    def _write(
        self, schema: Schema, chunks: Sequence[Chunk], split: Split, ids: dict[str, TokenIds]
    ) -> dict[str, Any]:
        """Pass 3: write the shards; return rows and bytes of every shard."""
        shards = list(plan_shards(split))
        missing = [shard for shard in shards if not (self.folder / shard.name).exists()]

        def tasks() -> Iterator[Callable[[], None]]:
            for shard in missing:
                own = {number: chunks[number] for number, _, _ in shard.parts}
                yield partial(write_shard, shard, schema, own, split, ids, self.folder)

        with self._bar("writing", sum(schema.rows.values()), "rows") as bar:
            for shard, _ in zip(missing, self.engine.in_order(tasks()), strict=True):
                bar.update(shard.rows)
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


def _updated(bar: tqdm[Any], feature: Feature) -> Feature:
    bar.update()
    return feature


def _say(progress: bool, message: str) -> None:
    if progress:
        print(message, file=sys.stderr)
