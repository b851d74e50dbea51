"""ROBE: one array of floats for all features, read in chunks that start anywhere in it.

Desai, Chou & Shrivastava, "Random offset block embedding (ROBE) for compressed embedding tables in deep
learning recommendation systems", MLSys 2022. The hashing is by chunk, so a chunk costs one read, and chunks
overlap in part: two ids rarely share all of one. A sign per float keeps what they share from adding up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimtab import kernels
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.hashing import MAX_ROWS, make_salts, salted_words, spread
from slimtab.tables.parts.reading import translates_to_onnx
from slimtab.tables.parts.windows import read_row_windows, read_windows
from slimtab.tables.rows.base import RowsFactory

_CHUNKS = 4
_SIGN, _ONE = -(2**31), 0x3F800000  # as int32: the sign bit of a float, and the bits of 1.0


@dataclass(frozen=True)
class RobeConfig(TableConfig):
    """Settings of :class:`Robe`.

    Attributes:
        blocks: length of the array, in blocks.
        block: floats of a chunk; divides ``dim``. 0 gives four chunks to an id, or as many as ``dim`` allows.
            This is the paper's Z; other code calls the number of chunks so.
    """

    by_budget = ("blocks",)

    blocks: int = 0
    block: int = 0

    def __post_init__(self) -> None:
        if self.block < 0:
            raise SlimtabError(f"robe cannot read chunks of {self.block} floats; set block to 1 or more")

    def chunk(self, dim: int) -> int:
        """Return the floats of a chunk at width ``dim``."""
        block = self.block or dim // math.gcd(dim, _CHUNKS)
        if dim % block:
            raise SlimtabError(
                f"robe reads chunks of {block} floats, which do not fill the width {dim}; "
                "set block to a divisor"
            )
        return block

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one chunk, and the salts."""
        block = cls(**options).chunk(dim)
        return 4 * block + 8 * len(features) * _words(dim, block)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> RobeConfig:
        block = cls(**options).chunk(dim)
        blocks = (nbytes - 8 * len(features) * _words(dim, block)) // (4 * block)
        return cls(**{**options, "blocks": min(blocks, MAX_ROWS // block)})


def _words(dim: int, block: int) -> int:
    """Mixed 64-bit words an id needs: half of one for each chunk, a bit for each sign."""
    return -(-dim // block // 2) + -(-dim // 64)


class _Hashes(nn.Module):
    """From ids to the starts of their chunks and the signs of their floats."""

    salt: Tensor

    def __init__(self, features: Sequence[Feature], dim: int, block: int, floats: int) -> None:
        super().__init__()
        self.dim, self.chunks, self.places = dim, dim // block, floats - block + 1
        self.register_buffer("salt", make_salts([f.name for f in features], _words(dim, block)))

    def forward(self, ids: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
        """Return starts [N · chunks] int64 and signs [N, dim], each 1 or −1, float32."""
        located = -(-self.chunks // 2)
        starts = spread(salted_words(ids, slot, self.salt[:, :located]), self.places)[:, : self.chunks]
        halves = salted_words(ids, slot, self.salt[:, located:]).view(torch.int32)
        shifts = torch.arange(min(self.dim, 32), dtype=torch.int32, device=ids.device)
        bits = halves[:, : -(-self.dim // 32), None] << shifts
        if translates_to_onnx():  # which cannot read integers as floats
            signs = torch.where(bits < 0, -1.0, 1.0)
        else:
            signs = bits.bitwise_and_(_SIGN).bitwise_or_(_ONE).view(torch.float32)
        return starts.reshape(-1), signs.flatten(1)[:, : self.dim]


class _FrozenRobe(FrozenTable):
    """The array, and the hashes that find places in it."""

    values: Tensor

    def __init__(self, hashes: _Hashes, values: Tensor, block: int) -> None:
        super().__init__()
        self.hashes, self.block = hashes, block
        self.register_buffer("values", values)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.values, ids, slot):
            from slimtab.kernels.chunks import read_chunks

            hashes = self.hashes
            return read_chunks(self.values, hashes.salt, ids, slot, self.block, hashes.chunks, 1)
        starts, signs = self.hashes(ids, slot)
        return read_windows(self.values, starts, self.block).view(signs.shape).mul_(signs)


class Robe(EmbeddingTable, method="robe"):
    """One array shared by every feature of the group."""

    kind = "static sharing"
    hashes_ids = True
    paper = "Desai et al., MLSys 2022"
    spreads = True
    Config = RobeConfig

    def __init__(
        self,
        config: RobeConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        block = config.chunk(dim)
        self.hashes = _Hashes(features, dim, block, config.blocks * block)
        # Rows of one block stand side by side for the array; a chunk lies across two of them.
        self.rows = make_rows(config.blocks, block, init_std)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        starts, signs = self.hashes(ids, slot)
        vectors: Tensor = read_row_windows(self.rows, starts).view(signs.shape) * signs
        return vectors

    def freeze(self) -> FrozenTable:
        """Return the array and its hashes as buffers."""
        return _FrozenRobe(self.hashes, self.rows.values().flatten(), self.rows.width)

    def stats(self) -> dict[str, float]:
        """Return the array's floats, and how many floats of ids share each on average."""
        floats = self.rows.num_rows * self.rows.width
        ids = sum(feature.num_ids for feature in self.features)
        return {"floats": floats, "shared_by": ids * self.dim / floats}
