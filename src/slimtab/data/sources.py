"""Raw files: which ones a path means, what identifies them, and their bytes in blocks of whole lines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from slimtab.errors import SlimtabError

LONGEST_LINE = 64 * 2**20
_UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".tmp", ".aria2")
_SAMPLE = 2**20


def find_sources(source: Path, kind: str) -> tuple[Path, ...]:
    """Return the raw files that ``source`` means, in natural order (``day_2`` before ``day_10``).

    A folder means its files. Where a Criteo folder holds ``day_*`` files (Terabyte) or ``train.txt``
    (Kaggle), only those are rows; the rest is documentation and unlabelled test rows.

    Raises:
        SlimtabError: when there is nothing to read, or a download has not finished.
    """
    if not source.exists():
        raise SlimtabError(
            f"{source} does not exist; give the raw file, or the folder that holds the raw files"
        )
    if source.is_file():
        found = [source]
    else:
        found = [path for path in source.iterdir() if path.is_file() and path.name[0] not in "._"]
        if kind == "criteo":
            found = _matching(found, r"day_\d+") or _matching(found, r"train\.") or found
    for path in found:
        if path.suffix in _UNFINISHED:
            raise SlimtabError(f"{path} is an unfinished download; finish or remove it first")
    if not found:
        raise SlimtabError(f"{source} holds no raw files; give the folder that has them")
    for path in found:
        if path.stat().st_size == 0:
            raise SlimtabError(f"{path} is empty; download it again, or remove it")
    return tuple(sorted(found, key=lambda path: _natural(path.name)))


def fingerprint(path: Path) -> dict[str, Any]:
    """Return what tells two raw files apart: name, size, and a hash of samples from start, middle and end."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for position in (0, size // 2, max(0, size - _SAMPLE)):
            file.seek(position)
            digest.update(file.read(_SAMPLE))
    return {"name": path.name, "bytes": size, "sample": digest.hexdigest()[:16]}


@dataclass(frozen=True)
class Block:
    """Whole lines of a text file.

    Attributes:
        data: the bytes, ending at a line end (only a file's last line may lack it).
        start: position of the first byte in the (decompressed) file.
        first_line: number of the first line, from 1.
        lines: number of physical lines.
    """

    data: bytes
    start: int
    first_line: int
    lines: int

    @property
    def end(self) -> int:
        """Position after the last byte."""
        return self.start + len(self.data)


def read_blocks(path: Path, size: int, start: int = 0, first_line: int = 1) -> Iterator[Block]:
    """Yield the file's lines from position ``start`` in blocks of about ``size`` bytes, decompressed.

    Raises:
        SlimtabError: when the file cannot be read, is cut off, or is not text in lines.
    """
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            _skip(stream, start)
            # A block depends on where it starts and on nothing before, so that a resumed run cuts the same.
            buffer, want = b"", size
            while True:
                buffer += _read(stream, want - len(buffer))
                cut = buffer.rfind(b"\n", 0, want) + 1
                if cut:
                    lines = buffer.count(b"\n", 0, cut)
                    yield Block(buffer[:cut], start, first_line, lines)
                    start, first_line, want = start + cut, first_line + lines, size
                    buffer = buffer[cut:]
                elif len(buffer) < want:
                    break
                elif want >= LONGEST_LINE:
                    raise SlimtabError(f"{path} has no line end within {want >> 20} MiB; is it a text file?")
                else:
                    want *= 2
            if buffer:
                yield Block(buffer, start, first_line, 1)
    except OSError as error:
        what = "ends too early" if "Truncated" in str(error) else "cannot be read"
        raise SlimtabError(f"{path} {what} ({error}); download it again") from error


def first_lines(path: Path, count: int) -> list[bytes]:
    """Return up to ``count`` lines from the start of the file, without line ends and blank lines."""
    block = next(read_blocks(path, 2**16), None)
    data = b"" if block is None else block.data.removeprefix(b"\xef\xbb\xbf")
    return [line.rstrip(b"\r") for line in data.split(b"\n") if line.strip()][:count]


def text_suffix(path: Path) -> str:
    """Return the suffix that names the format: ``.csv`` of ``rows.csv.gz``."""
    return Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix


def _read(stream: Any, nbytes: int) -> bytes:
    """Read ``nbytes``, fewer only at the end of the file."""
    parts = []
    while nbytes > 0 and (part := stream.read(nbytes)):
        parts.append(part)
        nbytes -= len(part)
    return b"".join(parts)


def _skip(stream: Any, nbytes: int) -> None:
    while nbytes > 0 and (part := stream.read(min(nbytes, 2**24))):
        nbytes -= len(part)


def _matching(paths: list[Path], pattern: str) -> list[Path]:
    return [path for path in paths if re.match(pattern, path.name)]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
