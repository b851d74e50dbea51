"""CAFE: ids that matter own a row, all others share hashed ones; which ones matter is found while training.

Zhang et al., "CAFE: towards compact, adaptive, and fast embedding for large-scale recommendation models",
SIGMOD 2024. An id's importance is the norm of its gradient, summed over steps by a
:class:`~slimtab.tables.parts.hotsketch.HotSketch`. Nothing is kept per id, so ids may be hashes of any size
and need no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from slimtab import kernels
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.hash import HashConfig, _HashAddressing
from slimtab.tables.hashing import mix64
from slimtab.tables.parts.hotsketch import CELLS, HotSketch, find_in_index
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory

# All scores decay, and the threshold is found anew, whenever this much has been added per hot row and unit
# of a fixed threshold.
_DECAY_EVERY = 10.0
# An id keeps its row until its score falls below this share of the threshold: around the threshold ids of
# about the same score would otherwise take the row from each other, and train it anew every time.
_KEPT_FROM = 0.5


@dataclass(frozen=True)
class CafeConfig(TableConfig):
    """Settings of :class:`Cafe`.

    Attributes:
        rows: hashed rows of each feature; a feature with as many rows as ids is kept exact.
        hot: rows that single ids own.
        shared: share of the budget for hashed rows.
        threshold: score that makes an id hot, in occurrences of mean importance; 0 finds the score at which
            the hot rows just fill up, again and again while training.
        decay: factor on all scores, applied now and then.
    """

    by_budget = ("rows", "hot")

    rows: tuple[int, ...] = ()
    hot: int = 0
    shared: float = 0.9
    threshold: float = 0.0
    decay: float = 0.99

    def __post_init__(self) -> None:
        if not 0 <= self.shared <= 1 or not 0 < self.decay <= 1 or self.threshold < 0:
            raise SlimtabError(
                f"cafe cannot work with shared={self.shared}, threshold={self.threshold}, "
                f"decay={self.decay}; shared and decay are shares of 1, threshold is not negative"
            )

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one hashed row per feature, the seeds, and no hot row."""
        cls(**options)
        return HashConfig.smallest_bytes(features, dim)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> CafeConfig:
        ids = sum(feature.num_ids for feature in features)
        given = cls(**options)
        left = nbytes - HashConfig.seed_bytes(features, 1)
        hot = 0
        if left // (4 * dim) < ids:  # else every id owns a row already
            each, fixed = 4 * dim + 4 + _key_bytes(features), CELLS * _key_bytes(features) + 8
            room = min((1 - given.shared) * left, left - 4 * dim * len(features))
            hot = max(0, int(room - fixed) // each)
            nbytes -= hot * each + fixed if hot else 0
        rows = HashConfig.for_budget(features, dim, nbytes)
        assert isinstance(rows, HashConfig)
        return cls(rows=rows.rows, hot=hot, **options)


def _key_bytes(features: Sequence[Feature]) -> int:
    """Bytes of a key in the served index: of a number among all ids, or of a hash."""
    numbered = all(feature.encoding == "vocab" for feature in features)
    return 4 if numbered and sum(feature.num_ids for feature in features) < 2**31 else 8


class _CafeAddressing(_HashAddressing):
    """The hashed row of an id, and the key the sketch knows it by."""

    start: Tensor

    def __init__(self, features: Sequence[Feature], config: CafeConfig) -> None:
        super().__init__(features, HashConfig(config.rows))
        self.numbered = all(feature.encoding == "vocab" for feature in features)
        self.register_buffer("start", starts(feature.num_ids for feature in features), persistent=False)

    def keys(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return a number [N] int64, not negative, for each (feature, id)."""
        if self.numbered:
            return ids + self.start.index_select(0, slot)
        return mix64(ids ^ self.salt[slot, 0]) & (2**63 - 1)


class FrozenCafe(FrozenTable):
    """Hashed rows, then the rows of hot ids bucket after bucket, and the index that finds them."""

    weight: Tensor
    index: Tensor
    starts: Tensor
    salt: Tensor

    def __init__(self, addressing: _CafeAddressing, weight: Tensor, index: dict[str, Tensor]) -> None:
        super().__init__()
        self.addressing, self.has_hot = addressing, bool(index)
        self.register_buffer("weight", weight)
        for name, tensor in index.items():
            self.register_buffer(name, tensor)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        address = self.addressing(ids, slot).squeeze(1)
        if self.has_hot:
            if kernels.ready(self.weight, address, ids, slot):
                from slimtab.kernels.cafe import read_cafe

                numbered, start = self.addressing.numbered, self.addressing.start
                if not numbered:
                    ids, start = self.addressing.keys(ids, slot), torch.zeros_like(start)
                index = self.index, self.starts, self.salt
                return read_cafe(self.weight, address, ids, slot, start, *index, CELLS)
            keys = self.addressing.keys(ids, slot)
            place = find_in_index(keys, self.index, self.starts, self.salt)
            first = self.weight.shape[0] - self.starts.shape[0]
            address = torch.where(place >= 0, first + place, address)
        return read_rows(self.weight, address)


class Cafe(EmbeddingTable, method="cafe"):
    """Hot ids own rows, the others share; hotness is learnt from gradients."""

    kind = "dynamic sharing"
    hashes_ids = True
    paper = "Zhang et al., SIGMOD 2024"
    whole_batch = True
    Config = CafeConfig
    sketch: HotSketch | None
    threshold: Tensor
    added: Tensor

    def __init__(
        self,
        config: CafeConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.addressing = _CafeAddressing(features, config)
        self.first_hot = sum(config.rows)
        self.rows = make_rows(self.first_hot + config.hot, dim, init_std)
        self.sketch = HotSketch(config.hot) if config.hot else None
        self.decay, self.fixed = config.decay, config.threshold > 0
        self.period = _DECAY_EVERY * config.hot * (config.threshold if self.fixed else 1.0)
        start = config.threshold if self.fixed else torch.inf  # nobody is hot before scores can be compared
        self.register_buffer("threshold", torch.tensor(start, dtype=torch.float64))
        self.register_buffer("added", torch.zeros((), dtype=torch.float64))  # to scores since they decayed

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]; in training their gradients will be scored."""
        shared = self.addressing(ids, slot).squeeze(1)
        if self.sketch is None:
            return self.rows(shared)  # type: ignore[no-any-return]
        if not (self.training and torch.is_grad_enabled()):
            return self._read(self.sketch.find(self.addressing.keys(ids, slot)), shared)
        # Before rows are read: between reading and the optimizer step no row may change its owner.
        self._cool(self.sketch)
        keys = self.addressing.keys(ids, slot)
        vectors = self._read(self.sketch.find(keys), shared)
        sharing = ~self.addressing.exact[slot]  # ids of exact features own their rows anyway
        if vectors.requires_grad:
            hook = partial(self._observe, keys, shared, sharing)
            vectors.register_hook(hook)  # type: ignore[no-untyped-call]
        return vectors

    def _read(self, hot: Tensor, shared: Tensor) -> Tensor:
        """Return the hot row where there is one, the shared row elsewhere."""
        return self.rows(torch.where(hot >= 0, self.first_hot + hot, shared))  # type: ignore[no-any-return]

    def _cool(self, sketch: HotSketch) -> None:
        if float(self.added) >= self.period:
            sketch.cool(self.decay)
            if not self.fixed:
                self.threshold.fill_(sketch.last_score())
            sketch.release(_KEPT_FROM * float(self.threshold))
            self.added.zero_()

    @torch.no_grad()
    def _observe(self, keys: Tensor, shared: Tensor, sharing: Tensor, gradient: Tensor) -> None:
        """Score what was looked up and give rows to ids that became hot, all inside backward.

        Nothing is left for the next step, so a checkpoint between two steps holds everything. A row given
        away was free, so nobody has read it in this step and the optimizer will not write to it.
        """
        keys, shared = keys[sharing], shared[sharing]
        norm = gradient[sharing].norm(dim=1)
        mean = float(norm.mean()) if len(norm) else 0.0
        if not mean > 0:
            return
        assert self.sketch is not None
        self.sketch.observe(keys, norm / mean)
        self.added += len(norm)
        which, rows = self.sketch.promote(keys, float(self.threshold))
        self.rows.copy_rows(shared[which], self.first_hot + rows)  # it goes on from the row it had so far

    def freeze(self) -> FrozenTable:
        """Return the rows, those of hot ids laid as the index has them."""
        values = self.rows.values()
        if self.sketch is None:
            return FrozenCafe(self.addressing, values, {})
        starts, keys, order = self.sketch.index()
        keys = keys.int() if _key_bytes(self.features) == 4 else keys
        weight = torch.cat([values[: self.first_hot], values[self.first_hot :].index_select(0, order)])
        index = {"index": keys, "starts": starts, "salt": self.sketch.salt.clone()}
        return FrozenCafe(self.addressing, weight, index)

    def stats(self) -> dict[str, float]:
        """Return hashed rows, hot rows, and how many of those have an owner."""
        hot = 0 if self.sketch is None else self.sketch.num_rows
        owned = 0 if self.sketch is None else hot - int(self.sketch.num_free)
        return {"rows": self.first_hot, "hot_rows": hot, "hot_rows_owned": owned}

    def bytes_by_feature(self) -> list[int]:
        """Return each feature's hashed rows and seeds; hot rows are split by the ids that may become hot."""
        assert isinstance(self.config, CafeConfig)
        own = [4 * self.dim * rows + HashConfig.seed_bytes(self.features[:1], 1) for rows in self.config.rows]
        sharing = [
            0 if rows >= feature.num_ids else feature.num_ids
            for feature, rows in zip(self.features, self.config.rows, strict=True)
        ]
        hot = self.serve_bytes() - sum(own)
        upto = accumulate((hot * ids for ids in sharing), initial=0)
        edges = [ids // max(1, sum(sharing)) for ids in upto]
        return [mine + stop - start for mine, (start, stop) in zip(own, pairwise(edges), strict=True)]
