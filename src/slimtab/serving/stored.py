"""Where tensors lie in a safetensors file, for programs that read them there or copy them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple


class Span(NamedTuple):
    """The bytes of a tensor, ``start`` up to ``stop`` of its file."""

    start: int
    stop: int


def spans(path: Path) -> dict[str, Span]:
    """Return the bytes of each tensor in the file, by name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    first = 8 + length
    return {
        name: Span(first + entry["data_offsets"][0], first + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }
