"""Recurrent binary codes: a vector is a sum of ±1 vectors with halving weights, turned and given its length.

Gan et al., "Binary embedding-based retrieval at Tencent", KDD 2023: b₀ + ½ b₁ + ¼ b₂ + …, each bit the sign
of what the bits before leave. Their networks between vectors and bits are one rotation here, as in iterative
quantisation (Gong & Lazebnik, CVPR 2011). A rotation keeps distances, so that of two vectors can be taken
between their codes. Fine-tuning makes it any matrix, fitted to the model's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimtab.schema import Feature
from slimtab.tables.base import FrozenTable
from slimtab.tables.fitted.base import Code
from slimtab.tables.parts.codes import packed_code_bytes, read_codes
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.parts.starts import starts


@dataclass(frozen=True)
class Binary(Code, method="binary"):
    """Settings of :class:`FrozenBinary`.

    Attributes:
        bits: of each coordinate: ±1 vectors that are added up.
        width: coordinates that have bits, after the rotation; the others are dropped.
    """

    bits: int
    width: int

    def nbytes(self, ids: int, dim: int) -> int:
        """Return the bytes of codes, lengths and the rotation."""
        return packed_code_bytes(ids, self.width, self.bits) + 2 * ids + 4 * self.width * dim

    def empty(self, features: Sequence[Feature], dim: int) -> FrozenTable:
        """See :class:`~slimtab.tables.fitted.Code`."""
        ids = [feature.num_ids for feature in features]
        codes = torch.zeros(packed_code_bytes(sum(ids), self.width, self.bits), dtype=torch.uint8)
        lengths = torch.zeros(sum(ids), 1, dtype=torch.float16)
        return FrozenBinary(self, codes, lengths, torch.zeros(self.width, dim), starts(ids))


class FrozenBinary(FrozenTable):
    """Packed bits, a length for each row, and the rotation of all."""

    codebooks = ("rotation",)

    codes: Tensor
    lengths: Tensor
    rotation: Tensor
    offset: Tensor

    def __init__(
        self, config: Binary, codes: Tensor, lengths: Tensor, rotation: Tensor, offset: Tensor
    ) -> None:
        """Take what was fitted.

        Args:
            config: bits and width.
            codes: packed; the number of a coordinate is what its bits say, the first the highest.
            lengths: of each row's ±1 vectors [ids, 1] float16.
            rotation: orthonormal rows [width, dim].
            offset: where each feature's rows begin [F] int64.
        """
        super().__init__()
        self.bits, self.width = config.bits, config.width
        self.register_buffer("codes", codes)
        self.register_buffer("lengths", lengths)
        self.register_buffer("rotation", rotation)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        return self._turned(ids + self.offset.index_select(0, slot)) @ self.rotation

    def distance(self, ids: Tensor, slot: Tensor, other_ids: Tensor, other_slot: Tensor) -> Tensor:
        """Return squared distances [N] between vectors, taken between their codes: no vector is made."""
        one = self._turned(ids + self.offset.index_select(0, slot))
        other = self._turned(other_ids + self.offset.index_select(0, other_slot))
        apart = one - other
        # The rotation keeps lengths until fine-tuning bends it.
        return (apart * (apart @ (self.rotation @ self.rotation.t()))).sum(dim=1)

    def _turned(self, rows: Tensor) -> Tensor:
        """Return the sums of ±1 vectors, with their lengths [N, width]."""
        first = rows * (self.width * self.bits)
        numbers = torch.stack(read_codes(self.codes, first, self.bits, self.width), dim=1)
        return signs(numbers, self.bits).mul_(read_rows(self.lengths, rows).float())


def signs(numbers: Tensor, bits: int) -> Tensor:
    """Return ±1 ± ½ ± ¼ … float32 for ``numbers`` in [0, 2^bits), whose highest bit is the first sign."""
    return (2 * numbers.float() + (1 - (1 << bits))).mul_(0.5 ** (bits - 1))
