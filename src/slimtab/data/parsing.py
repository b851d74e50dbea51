"""Pass 1 of prep: every block of the raw files becomes a chunk on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from slimtab.data.chunks import Chunk, write_chunk
from slimtab.data.engine import Engine
from slimtab.data.manifest import write_json
from slimtab.data.readers import RawReader
from slimtab.schema import Schema


@dataclass(frozen=True)
class FileParser:
    """Turns one raw file into chunks, and goes on behind those that are there.

    Attributes:
        reader: of the file.
        file: its number.
        draft: the schema, not fitted.
        work: folder of the chunks.
    """

    reader: RawReader
    file: int
    draft: Schema
    work: Path

    def tasks(self) -> Iterator[Callable[[], Chunk]]:
        """Yield what makes each chunk; those on disk are read."""
        number, position = 0, (0, 1)
        while (path := self._path(number)).exists():
            chunk = Chunk.load(path)
            position = (chunk.end, chunk.next_line)
            number += 1
            yield partial(_known, chunk)
        if self._whole.exists():
            return
        for piece in self.reader.pieces(*position):
            yield partial(write_chunk, self._path(number), piece, self.file, self.draft)
            number += 1

    def __call__(self) -> list[Chunk]:
        """Parse the whole file, one block after another."""
        chunks = [task() for task in self.tasks()]
        self.mark()
        return chunks

    def mark(self) -> None:
        """Say that all of the file is parsed."""
        if not self._whole.exists():
            write_json(self._whole, {"file": self.file})

    @property
    def _whole(self) -> Path:
        return self.work / f"parsed-{self.file:05d}.json"

    def _path(self, number: int) -> Path:
        return self.work / f"chunk-{self.file:05d}-{number:06d}.arrow"


def parse_files(parsers: Sequence[FileParser], engine: Engine) -> Iterator[Chunk]:
    """Yield the chunks of all files in order."""
    if not engine.shared:
        for chunks in engine.in_order(parsers):
            yield from chunks
        return
    file = 0
    for chunk in engine.in_order(chain.from_iterable(parser.tasks() for parser in parsers)):
        for parser in parsers[file : chunk.file]:
            parser.mark()
        file = chunk.file
        yield chunk
    for parser in parsers[file:]:
        parser.mark()


def _known(chunk: Chunk) -> Chunk:
    return chunk
