"""Few bits for each coordinate, with a least value and a step for each row, both in half precision.

Guan et al., "Post-training 4-bit quantization on embedding tables", MLSys workshop at NeurIPS 2019, whose
rows fbgemm serves too; there the step of a row is searched for, here it is fitted
(:mod:`slimtab.shrinking.row_steps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimtab import kernels
from slimtab.schema import Feature
from slimtab.tables.base import FrozenTable
from slimtab.tables.fitted.base import Code
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.parts.starts import starts

_BYTE = 8  # bits


@dataclass(frozen=True)
class RowSteps(Code, method="row_steps"):
    """Settings of :class:`FrozenRowSteps`.

    Attributes:
        bits: of each coordinate: 2, 4 or 8.
    """

    bits: int

    def row_bytes(self, dim: int) -> int:
        """Return the bytes of a row's codes, each row on a byte of its own."""
        return -(-dim * self.bits // _BYTE)

    def nbytes(self, ids: int, dim: int) -> int:
        """Return the bytes of ``ids`` rows: codes, least value and step."""
        return ids * (self.row_bytes(dim) + 4)

    def empty(self, features: Sequence[Feature], dim: int) -> FrozenTable:
        """See :class:`~slimtab.tables.fitted.Code`."""
        ids = [feature.num_ids for feature in features]
        codes = torch.zeros(sum(ids), self.row_bytes(dim), dtype=torch.uint8)
        lines = torch.zeros(sum(ids), 2, dtype=torch.float16)
        return FrozenRowSteps(self.bits, dim, codes, lines, starts(ids))


class FrozenRowSteps(FrozenTable):
    """A coordinate is its row's least value and so many of its steps."""

    codes: Tensor
    lines: Tensor
    offset: Tensor
    shift: Tensor

    def __init__(self, bits: int, dim: int, codes: Tensor, lines: Tensor, offset: Tensor) -> None:
        """Take what :func:`pack_row` made.

        Args:
            bits: of each coordinate.
            dim: coordinates.
            codes: [ids, bytes] uint8.
            lines: least value and step of each row [ids, 2] float16.
            offset: where each feature's rows begin [F] int64.
        """
        super().__init__()
        self.bits, self.dim = bits, dim
        self.register_buffer("codes", codes)
        self.register_buffer("lines", lines)
        self.register_buffer("offset", offset, persistent=False)
        shift = torch.arange(0, _BYTE, bits, dtype=torch.uint8)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.codes, self.lines, ids, slot, floats=torch.float16):
            from slimtab.kernels.row_steps import read_row_steps

            return read_row_steps(self.codes, self.lines, self.offset, self.bits, self.dim, ids, slot)
        rows = ids + self.offset.index_select(0, slot)
        codes, lines = read_rows(self.codes, rows), read_rows(self.lines, rows).float()
        if self.bits < _BYTE:
            codes = (codes[:, :, None] >> self.shift).bitwise_and_((1 << self.bits) - 1).flatten(1)
        return torch.addcmul(lines[:, :1], codes[:, : self.dim].float(), lines[:, 1:])


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """Pack ``codes`` [N, dim] uint8, each below 2^bits, as :class:`FrozenRowSteps` reads them."""
    if bits == _BYTE:
        return codes
    in_byte = _BYTE // bits
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % in_byte)).view(len(codes), -1, in_byte)
    packed = codes[:, :, 0].clone()
    for place in range(1, in_byte):
        packed |= codes[:, :, place] << (bits * place)
    return packed
