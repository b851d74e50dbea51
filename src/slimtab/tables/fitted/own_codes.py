"""Residual codes with codewords for each feature alone (:mod:`slimtab.tables.parts.own_codes`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from slimtab.schema import Feature
from slimtab.tables.base import FrozenTable
from slimtab.tables.fitted.base import Code
from slimtab.tables.parts.own_codes import FrozenOwnCodes, Shape
from slimtab.tables.parts.packing import PADDING


@dataclass(frozen=True)
class OwnCodes(Code, method="own_codes"):
    """Shapes of the codes.

    Attributes:
        bits: of a level of each feature.
        levels: of each feature.
    """

    bits: Sequence[int]
    levels: Sequence[int]

    def empty(self, features: Sequence[Feature], dim: int) -> FrozenTable:
        """See :class:`~slimtab.tables.fitted.Code`."""
        shapes = [Shape(*shape) for shape in zip(self.bits, self.levels, strict=True)]
        sizes = [feature.num_ids for feature in features]
        nbytes = sum(shape.code_bytes(ids) for shape, ids in zip(shapes, sizes, strict=True))
        codewords = torch.zeros(sum(shape.codewords for shape in shapes), dim)
        return FrozenOwnCodes(shapes, sizes, torch.zeros(nbytes + PADDING, dtype=torch.uint8), codewords)
