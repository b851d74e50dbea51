"""Product codes: a vector is cut into parts, and each part is one of the pieces of a small shared codebook.

Jégou, Douze & Schmid, "Product quantization for nearest neighbor search", TPAMI 2011. All features of a group
share one codebook: a codebook each would cost codes · dim floats per feature, more than most features have
ids. Features so small that rows of their own are cheap stay full.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.schema import Feature
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.codes import pack_codes, packed_code_bytes, widen_codes
from slimtab.tables.parts.packing import read_words
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.parts.starts import starts
from slimtab.tables.parts.usage import CodeUse
from slimtab.tables.rows.base import RowsFactory

_CHUNK = 256  # queries compared with the codebook at a time: their distances stay in the cache
_CODED = 1 << 18  # ids whose codes are read at a time for statistics
_LEAST_BITS, _MOST_BITS = 5, 8  # of a code, where there are several parts
# Features of up to this many ids per unit of the share that codes take of full rows stay full, as in `hash`.
_EXACT_PER_SHARE = 2000
_MOST_INT32 = 2**31  # pieces that can be numbered so
_LEAST_STEPS = 50  # between two searches for unused pieces


def nearest_pieces(queries: Tensor, codebook: Tensor) -> Tensor:
    """Return which piece is closest to each part of ``queries``: [N, parts] uint8.

    Args:
        queries: [N, parts · w] float32.
        codebook: pieces [parts, codes, w].
    """
    parts, _, width = codebook.shape
    if queries.is_meta or len(queries) == 0:  # on the meta device shapes are all there is
        return queries.new_empty(len(queries), parts, dtype=torch.uint8)
    # |q − c|² without |q|², which is the same for all pieces.
    half_norm, across = 0.5 * codebook.square().sum(dim=2)[:, None], codebook.transpose(1, 2)
    found = []
    for chunk in torch.split(queries, _CHUNK):
        # Always of one size, for a product of another may round differently and turn a near tie around.
        full = F.pad(chunk, (0, 0, 0, _CHUNK - len(chunk))).view(_CHUNK, parts, width).transpose(0, 1)
        distance = torch.baddbmm(half_norm, full, across, alpha=-1)
        found.append(distance.argmin(dim=2)[:, : len(chunk)].to(torch.uint8))
    return torch.cat(found, dim=1).t()


@dataclass(frozen=True)
class ProductConfig(TableConfig):
    """What tables of product codes share.

    Attributes:
        parts: pieces that make a vector; a power of two that divides ``dim``.
        codes: pieces of the codebook to choose from for each part; 0 when all features are full.
        exact: whether each feature is kept full.
    """

    by_budget = ("parts", "codes", "exact")
    least_bits: ClassVar[int] = 1  # of a code

    parts: int = 1
    codes: int = 0
    exact: tuple[bool, ...] = ()

    def hot_ids(self, num_ids: int) -> int:
        """Return how many ids of a feature, counted from 0, may use all codes; the others use a quarter."""
        return num_ids

    def code_bits(self) -> tuple[int, int]:
        """Return the bits of a code of a hot id, and of another."""
        bits = (self.codes - 1).bit_length()
        return bits, max(bits - 2, 0)

    def coded_ids(self, features: Sequence[Feature]) -> tuple[list[int], list[int]]:
        """Return the numbers of hot and of other ids that have codes, for each feature."""
        sizes = [0 if exact else f.num_ids for f, exact in zip(features, self.exact, strict=True)]
        hot = [self.hot_ids(size) for size in sizes]
        return hot, [size - few for size, few in zip(sizes, hot, strict=True)]

    def nbytes(self, features: Sequence[Feature], dim: int) -> int:
        """Return the bytes of codes, codebook and full rows."""
        rows = sum(f.num_ids for f, exact in zip(features, self.exact, strict=True) if exact)
        packed = sum(
            packed_code_bytes(sum(ids), self.parts, bits)
            for ids, bits in zip(self.coded_ids(features), self.code_bits(), strict=True)
        )
        return 4 * dim * (rows + self.codes) + packed

    def with_exact(self, exact: Sequence[bool]) -> Self:
        """Return the same with other features full; a codebook that none needs is left out."""
        return dataclasses.replace(self, exact=tuple(exact), codes=0 if all(exact) else self.codes)

    @classmethod
    def _ladder(cls, features: Sequence[Feature], dim: int, **options: Any) -> list[Self]:
        """Return settings from the fewest bits per id to the most; the last keeps everything full.

        Parts with few codes each are left out: half as many parts with twice the bits are the better code.
        So are parts of single floats, whose codes would be a slow way of rounding to eight bits.
        """
        ladder = []
        for parts in (1 << power for power in range(max(dim.bit_length() - 1, 1))):
            for bits in range(cls.least_bits if parts == 1 else _LEAST_BITS, _MOST_BITS + 1):
                if dim % parts == 0:
                    limit = _EXACT_PER_SHARE * parts * bits / (32 * dim)
                    step = cls(parts=parts, codes=1 << bits, **options)
                    ladder.append(step.with_exact([feature.num_ids <= limit for feature in features]))
        return [*ladder, ladder[0].with_exact([True] * len(features))]

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return the size of the smallest step."""
        return min(step.nbytes(features, dim) for step in cls._ladder(features, dim, **options))

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> Self:
        ladder = cls._ladder(features, dim, **options)
        config = next(step for step in reversed(ladder) if step.nbytes(features, dim) <= nbytes)
        # What is left over makes more features full, the smallest first.
        exact = list(config.exact)
        for slot in sorted(range(len(features)), key=lambda slot: features[slot].num_ids):
            exact[slot] = True
            if config.with_exact(exact).nbytes(features, dim) > nbytes:
                break
            config = config.with_exact(exact)
        return config


class FrozenProductCodes(FrozenTable):
    """Packed codes of hot ids, then of the others; pieces of the codebook, then those of full rows.

    The pieces [parts · S, w] hold for each part its ``codes`` pieces and that part of the full rows, S
    together. So every id is read alike: piece number ``part · S + code + own row``, where a full feature's
    codes have no bits and a coded feature has no own row.
    """

    codebooks = ("pieces",)

    packed: Tensor
    pieces: Tensor
    full: Tensor
    own: Tensor
    hot_ids: Tensor
    hot_first: Tensor
    cold_first: Tensor

    def __init__(
        self, config: ProductConfig, features: Sequence[Feature], pieces: Tensor, hot: Tensor, cold: Tensor
    ) -> None:
        super().__init__()
        self.parts, self.codes, self.bits = config.parts, config.codes, config.code_bits()
        self.register_buffer("packed", torch.cat([hot, cold]))
        self.register_buffer("pieces", pieces)
        full = torch.tensor([f.num_ids for f in features]) * torch.tensor(config.exact)
        hot_ids, cold_ids = (torch.tensor(ids) for ids in config.coded_ids(features))
        self.coded_ids = [sum(ids) for ids in zip(*config.coded_ids(features), strict=True)]
        tensors = {
            # All ones or all zeros, to be combined with numbers bit by bit.
            "full": -torch.tensor(config.exact).long(),
            "own": torch.where(torch.tensor(config.exact), config.codes + full.cumsum(0) - full, 0),
            "hot_ids": hot_ids,
            # The bits at which id 0 would have its codes in either tier.
            "hot_first": config.parts * self.bits[0] * (hot_ids.cumsum(0) - hot_ids),
            "cold_first": 8 * len(hot)
            + config.parts * self.bits[1] * (cold_ids.cumsum(0) - cold_ids - hot_ids),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        self.any_exact, self.any_cold = any(config.exact), len(cold) > 0

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        full = self.full.index_select(0, slot) if self.any_exact else None
        # In place, for a fresh [N, parts] costs more than the arithmetic that fills it.
        numbers = torch.int32 if len(self.pieces) <= _MOST_INT32 else torch.int64
        address = self._codes(ids, slot, full).to(numbers)
        address += (len(self.pieces) // self.parts * torch.arange(self.parts, device=ids.device)).to(numbers)
        if full is not None:
            address += self.own.index_select(0, slot).add_(full & ids).to(numbers)[:, None]
        return read_rows(self.pieces, address.flatten()).view(-1, address.shape[1] * self.pieces.shape[1])

    def stats(self) -> dict[str, float]:
        """Return how many pieces of the codebook are used by ids that have codes, and how evenly."""
        if not self.codes:
            return {}
        used = CodeUse([self.codes] * self.parts)
        for slot, size in enumerate(self.coded_ids):
            for ids in torch.split(torch.arange(size, device=self.packed.device), _CODED):
                used.add(self._codes(ids, torch.full_like(ids, slot), None).long())
        return used.stats()

    def _codes(self, ids: Tensor, slot: Tensor, full: Tensor | None) -> Tensor:
        """Return codes [N, parts] uint8; zeros for ids of full features."""
        # No ids have strides that cannot be seen as bytes; exporters always have some.
        if not self.codes or (not torch.compiler.is_compiling() and len(ids) == 0):
            return ids.new_zeros(len(ids), self.parts, dtype=torch.uint8)
        first = self.hot_first.index_select(0, slot).add_(ids * (self.parts * self.bits[0]))
        bits: int | Tensor = self.bits[0]
        if self.any_cold:
            hot = ids < self.hot_ids.index_select(0, slot)
            cold_first = self.cold_first.index_select(0, slot).add_(ids * (self.parts * self.bits[1]))
            first, bits = torch.where(hot, first, cold_first), torch.where(hot, self.bits[0], self.bits[1])
        if full is not None:
            first.bitwise_and_(~full)
        # Eight codes are a word, and fill whole bytes whatever their bits.
        starts = [first + group * bits if group else first for group in range(0, self.parts, 8)]
        words = torch.stack([read_words(self.packed, start) for start in starts], dim=1)
        if full is not None:
            words.bitwise_and_(~full[:, None])
        codes = widen_codes(words, self.bits[0])
        if self.any_cold:
            codes = torch.where(hot[:, None], codes, widen_codes(words, self.bits[1]))
        return codes.view(torch.uint8)[:, : self.parts]


class ProductCodes(EmbeddingTable, abc.ABC):
    """Rows for training, of which all but the full features' are seen through the codebook.

    An id's vector is its row with each part replaced by the nearest piece, found anew at every lookup: no
    code is ever stale. The row receives the vector's gradient as if it had not been replaced, and the pieces
    follow the rows that use them (van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation
    learning", NeurIPS 2017). Chen et al. also normalise distances over the batch; left out here, so that a
    vector depends on nothing but its row and the codebook.
    """

    whole_batch = True

    offset: Tensor
    exact: Tensor
    hot_ids: Tensor
    used: Tensor

    def __init__(
        self,
        config: TableConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        assert isinstance(config, ProductConfig)
        self.product = config
        sizes = [feature.num_ids for feature in features]
        hot, cold = config.coded_ids(features)
        self.any_cold = sum(cold) > 0
        self.register_buffer("exact", torch.tensor(config.exact), persistent=False)
        self.register_buffer("hot_ids", torch.tensor(hot), persistent=False)
        self.rows = make_rows(sum(sizes), dim, init_std)
        shape = (config.parts, config.codes, dim // config.parts)
        self.codebook = nn.Parameter(torch.randn(shape))
        self.register_buffer("used", torch.zeros(config.parts * config.codes, dtype=torch.bool))
        self.register_buffer("offset", starts(sizes), persistent=False)
        self._seen: list[tuple[Tensor, Tensor]] = []  # queries and their pieces, since the last penalty
        self._restart = False
        if config.codes:
            self._scale_codebook(init_std)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        rows: Tensor = self.rows(self.offset[slot] + ids)
        coded = ~self.exact[slot]
        learning = self.training and torch.is_grad_enabled()
        with torch.no_grad():
            queries, hot = rows[coded], (ids < self.hot_ids[slot])[coded]
            if learning and self._restart:
                self._restart_unused(queries)
            address = self._pieces(queries, hot)
            replaced = rows.clone()
            replaced[coded] = self._read(address)
        if learning:
            self._seen.append((queries, address))
            self.used[address.flatten()] = True
        # The difference is zero, so that what training sees is to the last bit what serving answers.
        if torch.is_grad_enabled():
            replaced += rows - rows.detach()
        return replaced

    def penalty(self) -> Tensor | None:
        """Return the mean square between the pieces just used and their queries; it moves the pieces only."""
        seen, self._seen = self._seen, []
        if not any(len(queries) for queries, _ in seen):
            return None
        queries = torch.cat([queries for queries, _ in seen])
        return F.mse_loss(self._read(torch.cat([address for _, address in seen])), queries)

    def row_like(self) -> list[nn.Parameter]:
        """Return the codebook."""
        return [self.codebook]

    def on_step(self, clock: Clock) -> None:
        """Ten times an epoch, let the next lookup put unused pieces where there are queries."""
        self._seen.clear()
        every = max(clock.steps_per_epoch // 10, _LEAST_STEPS)
        self._restart = clock.step > 0 and clock.step % every == 0

    def freeze(self) -> FrozenTable:
        """Return codes of all ids, found from the rows as they are now, in chunks."""
        config, codebook = self.product, self.codebook.detach()
        ids = zip(*config.coded_ids(self.features), strict=True)
        parts = [
            size
            for f, (hot, cold) in zip(self.features, ids, strict=True)
            for size in (hot, cold, f.num_ids - hot - cold)
        ]
        rows = self.rows.values().split_with_sizes(parts)
        hot_rows, cold_rows, own = (torch.cat(rows[kind::3]) for kind in range(3))
        hot = pack_codes(nearest_pieces(hot_rows, codebook), config.code_bits()[0])
        cold = pack_codes(nearest_pieces(cold_rows, self._few(codebook)), config.code_bits()[1])
        width = self.dim // config.parts
        own_pieces = own.view(-1, config.parts, width).transpose(0, 1)
        pieces = torch.cat([codebook, own_pieces], dim=1).view(-1, width)
        return FrozenProductCodes(config, self.features, pieces, hot, cold)

    def stats(self) -> dict[str, float]:
        """Return codes, and the share of pieces used since unused ones were last put elsewhere."""
        return {
            "parts": self.product.parts,
            "codes": self.product.codes,
            "pieces_used": float(self.used.float().mean()) if len(self.used) else 1.0,
        }

    def bytes_by_feature(self) -> list[int]:
        """Return the bytes of full rows, and the rest split over the other features by numbers of ids."""
        own = [
            4 * self.dim * f.num_ids * exact
            for f, exact in zip(self.features, self.product.exact, strict=True)
        ]
        rest = self.serve_bytes() - sum(own)
        coded = [hot + cold for hot, cold in zip(*self.product.coded_ids(self.features), strict=True)]
        edges = [rest * upto // max(sum(coded), 1) for upto in accumulate(coded, initial=0)]
        return [full + stop - start for full, (start, stop) in zip(own, pairwise(edges), strict=True)]

    def _few(self, codebook: Tensor) -> Tensor:
        """Return the pieces that ids which are not hot may use: the first quarter of each part's."""
        return codebook[:, : self.product.codes // 4]

    def _pieces(self, queries: Tensor, hot: Tensor) -> Tensor:
        """Return which rows of the flattened codebook stand for ``queries`` [N, dim]: [N, parts] int64."""
        if self.any_cold:
            codes = queries.new_empty(len(queries), self.product.parts, dtype=torch.uint8)
            codes[hot] = nearest_pieces(queries[hot], self.codebook)
            codes[~hot] = nearest_pieces(queries[~hot], self._few(self.codebook))
        else:
            codes = nearest_pieces(queries, self.codebook)
        return self._address(codes)

    def _address(self, codes: Tensor) -> Tensor:
        """Return rows of the flattened codebook [N, parts] int64 for ``codes`` [N, parts]."""
        return codes.long() + self.product.codes * torch.arange(self.product.parts, device=codes.device)

    def _read(self, address: Tensor) -> Tensor:
        """Return vectors [N, dim] made of the pieces at ``address`` [N, parts]."""
        return F.embedding(address, self.codebook.view(-1, self.codebook.shape[2])).flatten(1)

    @torch.no_grad()
    def _scale_codebook(self, init_std: float) -> None:
        """Make vectors start with ``init_std``: of several pieces the shorter ones are nearest more often."""
        queries = torch.randn(1024, self.dim)
        for _ in range(2):  # a longer codebook favours its shorter pieces once more
            codes = nearest_pieces(queries, self._few(self.codebook) if self.any_cold else self.codebook)
            self.codebook.div_(self._read(self._address(codes)).std())
        self.codebook.mul_(init_std)

    def _restart_unused(self, queries: Tensor) -> None:
        """Put pieces that nothing has used for a while on parts of queries drawn from ``queries``."""
        self._restart = False
        unused = (~self.used).nonzero().squeeze(1)
        if len(queries):
            drawn = torch.randint(len(queries), unused.shape, device=queries.device)
            part = torch.div(unused, self.product.codes, rounding_mode="floor")
            parts = queries.view(len(queries), self.product.parts, -1)
            self.codebook.flatten(0, 1)[unused] = parts[drawn, part]
            self.used.zero_()
