"""QR: an id is written as quotient and remainder, and each of the two reads a small table of its own.

Shi et al., "Compositional embeddings using complementary partitions for memory-efficient recommendation
systems", KDD 2020. No two ids of a feature have the same pair, so every id keeps a vector that no other has.
With three or four partitions the parts are the digits of the id in a mixed radix, and tables become smaller
than two can make them.

The most frequent ids have distinct first rows, and further digits say how rare an id is: a first row is
shared by one frequent id and others that are rarer by a known step. The other way round (`x // c` chooses
the first row) would put the hottest ids of a feature, which are its first, together in a few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimtab import kernels
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.rows.base import RowsFactory

_MODES = ("mult", "add", "concat")
_MOST = 4  # partitions tried of its own accord: 250 rows then hold 10 million ids
_FACTOR_STD = 0.5  # of the factors 1 + r: ids that share a first row begin apart, and no sign turns
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class QRConfig(TableConfig):
    """Settings of :class:`QR`.

    Attributes:
        collisions: ids that share a row of the first partition: all features' ids divide by it (by its power
            ``partitions − 1``); its ceiling is the number of rows of each further partition. It need not be
            a whole number. A feature that would not get smaller keeps all its rows; at 0 every one does.
        mode: ``mult``: q · (1 + r); ``add``: q + r; ``concat``: parts of ``dim / partitions`` side by side.
        partitions: rows read for each id; 0 takes two, and three or four where two cannot get small enough.
    """

    by_budget = ("collisions",)

    collisions: float = 0.0
    mode: str = "mult"
    partitions: int = 0

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise SlimtabError(f"qr has no mode '{self.mode}'; set mode to one of {', '.join(_MODES)}")
        if self.partitions < 0 or self.partitions == 1:
            raise SlimtabError(
                f"qr cannot split ids into {self.partitions} parts; set partitions to 2 or more"
            )

    def choices(self, dim: int) -> list[int]:
        """Return the numbers of partitions that may be tried at width ``dim``, fewest first."""
        wanted = [self.partitions] if self.partitions else list(range(2, _MOST + 1))
        fitting = [k for k in wanted if self.mode != "concat" or dim % k == 0]
        if not fitting:
            raise SlimtabError(
                f"qr puts {wanted[0]} parts side by side, which do not fill the width {dim}; "
                "set partitions to a divisor, or mode to mult or add"
            )
        return fitting

    def floats_of_a_row(self, dim: int, partitions: int) -> int:
        """Return the width of a row."""
        return dim // partitions if self.mode == "concat" else dim

    def rows_at(self, sizes: _Ints, partitions: int, collisions: NDArray[np.float64]) -> tuple[_Ints, _Ints]:
        """Return rows of each feature, and of the table, at each of the C collision numbers: [F, C], [C]."""
        whole = sizes[:, None] * (partitions if self.mode == "concat" else 1)
        split = _first_rows(sizes[:, None], partitions, collisions)
        split = split + (partitions - 1) * np.ceil(collisions).astype(np.int64)
        shrunk = (split < whole) & (collisions > 0)
        rows = np.where(shrunk, split, whole)
        # Full features have no second part. What stands for it (times 1, plus 0) is a row, and counted.
        rest = shrunk.any(axis=0) & ~shrunk.all(axis=0) & (self.mode != "concat")
        return rows, rows.sum(axis=0) + rest

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return the least that any collision number makes, over the numbers of partitions allowed."""
        config, sizes = cls(**options), _sizes(features)
        return min(
            4 * config.floats_of_a_row(dim, k) * int(config.rows_at(sizes, k, _whole(sizes, k))[1].min())
            for k in config.choices(dim)
        )

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> QRConfig:
        config, sizes = cls(**options), _sizes(features)
        choices = config.choices(dim)
        if 4 * dim * sizes.sum() <= nbytes:
            return cls(**{**options, "partitions": choices[0]})
        for k in choices:
            limit = nbytes // (4 * config.floats_of_a_row(dim, k))
            whole = _whole(sizes, k)
            fitting = (config.rows_at(sizes, k, whole)[1] <= limit).nonzero()[0]
            if len(fitting):
                break
        # Up to each whole number the rows get fewer; only behind it every feature gains one. So a whole
        # number that does not fit rules out all that lies between it and the one before.
        high = float(whole[fitting[0]])
        low = high - 1
        for _ in range(50 if high > 1 else 0):
            middle = (low + high) / 2
            fits = config.rows_at(sizes, k, np.array([middle]))[1][0] <= limit
            low, high = (low, middle) if fits else (middle, high)
        return cls(**{**options, "partitions": k, "collisions": high})


def _sizes(features: Sequence[Feature]) -> _Ints:
    return np.array([feature.num_ids for feature in features], dtype=np.int64)


def _whole(sizes: _Ints, partitions: int) -> NDArray[np.float64]:
    """All whole collision numbers up to where no feature gets smaller any more."""
    return np.arange(1.0, float(sizes.max()) ** (1 / partitions) + 2)


def _first_rows(sizes: _Ints, partitions: int, collisions: NDArray[np.float64]) -> _Ints:
    """Rows of the first partition. Products, not a power: every machine rounds them alike."""
    shared = collisions = np.maximum(collisions, 1.0)
    for _ in range(partitions - 2):
        shared = shared * collisions
    return np.ceil(sizes / shared).astype(np.int64)


class _Digits(nn.Module):
    """From an id to one row number for each partition: all of it follows from config and schema.

    The table begins with the row at rest, where there is one; then come further partitions, the first last.

    Attributes:
        num_rows: rows of the table.
        partitions: row numbers per id.
        rest: 1 where row 0 stands for the second part of full features, else 0.
        behind: where the first partition begins.
        rows_of: rows of each feature [F].
        first_rows_of: those in the first partition [F].
        full: whether a feature is full [F].
    """

    turn: Tensor
    stride: Tensor
    radix: Tensor
    offset: Tensor

    def __init__(self, config: QRConfig, sizes: _Ints) -> None:
        super().__init__()
        k, c, concat = config.partitions, np.array([config.collisions]), config.mode == "concat"
        own, total = config.rows_at(sizes, k, c)
        self.num_rows, self.rest = int(total[0]), int(total[0] - own.sum())
        full = own[:, 0] == sizes * (k if concat else 1)
        if full.all() and not concat:  # nothing is split, and a whole id has one part
            k = 1
        self.partitions = k
        radix = np.empty((k, len(sizes)), dtype=np.int64)
        radix[0] = np.where(full, sizes, _first_rows(sizes, k, c))
        radix[1:] = np.where(full, sizes if concat else 1, np.ceil(c).astype(np.int64))
        stride = np.cumprod(np.vstack([np.ones_like(sizes), radix[:-1]]), axis=0)
        rows = radix.copy()
        if concat:  # a full id owns a row in every partition
            stride[:, full] = 1
        else:
            rows[1:, full] = 0
        stacked = np.vstack([rows[1:], rows[:1]]).ravel()
        offset = np.roll((self.rest + np.cumsum(stacked) - stacked).reshape(k, -1), 1, axis=0)
        if not concat:
            offset[1:, full] = 0
        self.behind = self.num_rows - int(rows[0].sum())
        self.rows_of, self.first_rows_of, self.full = own[:, 0].tolist(), rows[0].tolist(), full.tolist()
        self.register_buffer("turn", torch.tensor((2 * radix[0]).tolist()), persistent=False)
        self.register_buffer("stride", torch.tensor(stride.tolist()), persistent=False)
        self.register_buffer("radix", torch.tensor(radix.tolist()), persistent=False)
        self.register_buffer("offset", torch.tensor(offset.tolist()), persistent=False)

    def forward(self, ids: Tensor, slot: Tensor) -> list[Tensor]:
        """Return the row numbers [N] int64 of each partition."""
        # Every other turn over the first rows runs backwards, so that the rarest ids share with rare ones.
        turn = self.turn.index_select(0, slot)
        forth = ids % turn
        back = turn.sub_(1).sub_(forth)
        addresses = [torch.minimum(forth, back).add_(self.offset[0].index_select(0, slot))]
        for part in range(1, len(self.stride)):
            # Ids are not negative, and this is the faster division.
            digit = torch.div(ids, self.stride[part].index_select(0, slot), rounding_mode="trunc")
            if part + 1 < len(self.stride):  # the last digit is what is left
                digit = digit % self.radix[part].index_select(0, slot)
            addresses.append(digit.add_(self.offset[part].index_select(0, slot)))
        return addresses


class _FrozenQR(FrozenTable):
    """The rows; those that multiply are stored as 1 + r."""

    weight: Tensor

    def __init__(self, digits: _Digits, weight: Tensor, mode: str) -> None:
        super().__init__()
        self.digits, self.mode = digits, mode
        self.register_buffer("weight", weight)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.weight, ids, slot):
            from slimtab.kernels.qr import read_qr

            own = self.digits
            tables = own.turn, own.stride, own.radix, own.offset
            return read_qr(self.weight, *tables, self.mode, own.partitions, ids, slot)
        parts = [read_rows(self.weight, address) for address in self.digits(ids, slot)]
        if self.mode == "concat":
            return torch.cat(parts, dim=1)
        vectors: Tensor = parts[0]
        for part in parts[1:]:
            vectors = vectors.mul_(part) if self.mode == "mult" else vectors.add_(part)
        return vectors


class QR(EmbeddingTable, method="qr"):
    """Two or more small tables per feature, read by the digits of the id."""

    kind = "static sharing"
    paper = "Shi et al., KDD 2020"
    spreads = True
    Config = QRConfig

    def __init__(
        self,
        config: QRConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        k, self.mode = config.partitions, config.mode
        self.digits = _Digits(config, _sizes(features))
        self.rows = make_rows(self.digits.num_rows, config.floats_of_a_row(dim, k), 1.0)
        # Of first rows and further ones, such that each output coordinate has init_std.
        first, further = {
            "mult": (init_std * (1 + _FACTOR_STD**2) ** ((1 - k) / 2), _FACTOR_STD),
            "add": (init_std * k**-0.5, init_std * k**-0.5),
            "concat": (init_std, init_std),
        }[self.mode]
        rest, behind = self.digits.rest, self.digits.behind
        deviation = torch.cat(
            [
                torch.zeros(rest),
                torch.full((behind - rest,), further),
                *(
                    torch.full((rows,), init_std if full else first)
                    for rows, full in zip(self.digits.first_rows_of, self.digits.full, strict=True)
                ),
            ]
        )
        self.rows.multiply(deviation)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        address = torch.stack(self.digits(ids, slot), dim=1)
        parts: Tensor = self.rows(address.flatten()).view(*address.shape, self.rows.width)
        if self.mode == "concat":
            return parts.flatten(1)
        vectors = parts[:, 0]
        for number in range(1, self.digits.partitions):
            part = parts[:, number]
            if self.digits.rest:  # that row stays as it is: a full feature is a plain table
                part = torch.where(address[:, number, None] == 0, 0.0, part)
            vectors = vectors * (1 + part) if self.mode == "mult" else vectors + part
        return vectors

    def freeze(self) -> FrozenTable:
        """Return the rows as a buffer."""
        weight = self.rows.values()
        if self.mode == "mult":
            weight[: self.digits.behind] += 1
        return _FrozenQR(self.digits, weight, self.mode)

    def bytes_by_feature(self) -> list[int]:
        """Return the bytes of each feature's own rows; the row at rest is the first feature's."""
        rows = [self.digits.rows_of[0] + self.digits.rest, *self.digits.rows_of[1:]]
        return [4 * self.rows.width * count for count in rows]

    def stats(self) -> dict[str, float]:
        """Return rows, partitions, and the share of features that stay full."""
        full = self.digits.full
        return {
            "rows": self.rows.num_rows,
            "partitions": self.digits.partitions,
            "full_features": sum(full) / len(full),
        }
