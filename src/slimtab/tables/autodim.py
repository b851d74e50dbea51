"""Searched widths: several widths per feature compete in one table, and the budget buys the winners.

Zhao, Liu, Liu, Fan, Liu & Tang, "AutoDim: field-aware embedding dimension search in recommender systems",
WWW 2021, in first order, with a price on bytes that the paper does not have: without it nothing says how
small is small enough. Jang, Gu & Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017.

The first stage trains rows of every candidate width for every id, and per feature the shares of a mixture of
them. The second keeps one width per feature: the mixture's vectors, cut to their principal components, become
mixed dimensions, and are trained on. That inherits what the paper inherits, whatever the width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.mde import Mde, MdeConfig, all_bytes, stored_floats
from slimtab.tables.parts.addressed import project_features
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import Rows, RowsFactory

_COLDEST = 0.1  # of the mixture's temperature; the variance of its gradients grows as it falls
_RATE = 1e4  # of the shares, per epoch: a width that is worth 0.001 in logloss wins within one
_PRICE_RATE = 0.1  # of the price of bytes, per epoch: as much logloss for a size twice the budget
_DAMPING = 0.01  # of the price, by the excess itself: price and size would swing around each other
_UNUSED = 0.05  # share of a budget that may be left over
_MEMORY = 0.95  # of the running mean that candidates are normalised by
_SAMPLE = 128  # rows of a batch that it looks at


@dataclass(frozen=True)
class AutoDimConfig(TableConfig):
    """Settings of :class:`AutoDim`.

    Attributes:
        nbytes: what the widths may cost once they are chosen.
        widths: the widths chosen, by feature; none before the search.
    """

    by_budget = ("nbytes", "widths")

    nbytes: int = 0
    widths: tuple[int, ...] = ()

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return what mixed dimensions need: a float per id and projections."""
        return MdeConfig.smallest_bytes(features, dim)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> AutoDimConfig:
        sizes = np.array([feature.num_ids for feature in features])
        return cls(nbytes=min(nbytes, int(all_bytes(sizes, np.full_like(sizes, dim), dim))))


def candidates(dim: int) -> list[int]:
    """Return the powers of two below ``dim``, and ``dim``."""
    return [*(1 << bit for bit in range((dim - 1).bit_length())), dim]


def choose_widths(
    sizes: NDArray[np.int64], score: NDArray[np.float64], dim: int, nbytes: int
) -> tuple[int, ...]:
    """Return the width of each feature: a candidate of high score, as far as the budget allows.

    Widths that win as scores minus a price per byte are the best there are at their size. The price that just
    keeps the budget is found by bisection; it is below zero where the budget is larger than what scores ask
    for. What it leaves over widens single features, at the least loss per byte, and in the end to widths
    between candidates: budgets are to be used.

    Args:
        sizes: ids of each feature [F].
        score: logarithmic share of each candidate [F, C].
        dim: output width.
        nbytes: the budget, no less than the narrowest widths take.
    """
    width, each = np.array(candidates(dim)), np.arange(len(sizes))
    cost = 4 * stored_floats(sizes[:, None], width, dim)
    # One that is as large as full rows is no candidate.
    score = np.where((cost < cost[:, -1:]) | (width == dim), score, -np.inf)
    room = nbytes - (all_bytes(sizes, np.full_like(sizes, dim), dim) - cost[:, -1].sum())

    def winners(price: float) -> NDArray[np.int64]:
        # Of equals the narrowest, so that no price makes a table larger.
        return np.asarray((score - price * cost).argmax(axis=1))

    low, high = -1e3, 1e3  # where all widths are the largest, and the smallest: a byte is worth far less
    for _ in range(100):
        price = (low + high) / 2
        low, high = (low, price) if cost[each, winners(price)].sum() <= room else (price, high)
    chosen = winners(high)
    while True:
        left = room - cost[each, chosen].sum()
        added = cost - cost[each, chosen][:, None]
        able = (added > 0) & (added <= left) & np.isfinite(score)
        gain = np.where(able, (score - score[each, chosen][:, None]) / np.maximum(added, 1), -np.inf)
        # Of equals the narrowest feature, and its next width.
        order = np.lexsort((cost.ravel(), np.repeat(width[chosen], len(width)), -gain.ravel()))
        slot, candidate = divmod(int(order[0]), len(width))
        # Against the scores only as far as a budget must be used.
        if not able[slot, candidate] or (gain[slot, candidate] < 0 and left <= _UNUSED * nbytes):
            break
        chosen[slot] = candidate
    return _filled(sizes, width[chosen], dim, room, _UNUSED * nbytes)


def _filled(
    sizes: NDArray[np.int64], widths: NDArray[np.int64], dim: int, room: np.int64, unused: float
) -> tuple[int, ...]:
    """Spend what no step between candidates fits into: widen the narrowest features there is room for."""
    widths = widths.copy()
    step = 4 * (sizes + dim)  # a column, and its row of the projection
    while (left := room - 4 * stored_floats(sizes, widths, dim).sum()) > unused:
        able = np.flatnonzero((widths < dim - 1) & (step <= left))
        if not len(able):
            break
        slot = able[np.argmin(widths[able])]
        widths[slot] = min(widths[slot] + left // step[slot], dim - 1)
    return tuple(map(int, widths))


class _Mixture(nn.Module):
    """Rows of all candidate widths, and per feature the shares in which they are mixed.

    The candidates of an id are one row, so a lookup is one read. They meet after pooling: projecting and
    mixing are linear, and cost nothing per id there.
    """

    offset: Tensor
    candidate: Tensor
    size: Tensor
    square: Tensor
    price: Tensor

    def __init__(
        self, sizes: Sequence[int], dim: int, nbytes: int, make_rows: RowsFactory, init_std: float
    ) -> None:
        super().__init__()
        widths, numbers = candidates(dim), np.array(sizes)
        self.dim, self.widths, self.width = dim, widths, sum(widths)
        self.register_buffer("offset", starts(sizes), persistent=False)
        candidate = torch.tensor([number for number, width in enumerate(widths) for _ in range(width)])
        self.register_buffer("candidate", candidate, persistent=False)  # of each column
        cost = 4 * np.minimum(stored_floats(numbers[:, None], np.array(widths), dim), numbers[:, None] * dim)
        self.register_buffer("size", torch.tensor(cost / nbytes, dtype=torch.float32), persistent=False)
        # Independent candidates in equal shares vary less than each of them.
        self.rows = make_rows(sum(sizes), self.width, init_std * len(widths) ** 0.5)
        # Columns of length 1, and none for full rows, which need no projection.
        parts = [F.normalize(torch.randn(len(sizes), width, dim), dim=1) for width in widths[:-1]]
        self.maps = nn.Parameter(torch.cat([torch.empty(len(sizes), 0, dim), *parts], dim=1))
        self.shares = nn.Parameter(torch.zeros(len(sizes), len(widths)))
        self.register_buffer("square", torch.full((len(widths),), max(init_std, 1e-6) ** 2))
        self.register_buffer("price", torch.zeros(()))
        self.pace, self.temperature = 1.0, 1.0

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return the rows of all candidates side by side [N, width]."""
        rows: Tensor = self.rows(ids + self.offset.index_select(0, slot))
        return rows

    def project(self, pooled: Tensor) -> Tensor:
        """Mix ``pooled`` [B, F, width] to [B, F, dim].

        Candidates are brought to one spread first, so that shares compare like with like. Spread only: a
        common centre would make an empty bag something else than zero.
        """
        if self.training and len(pooled):
            self._measure(pooled.detach()[:_SAMPLE])
        narrow, factors = self.width - self.dim, self._factors()
        mixed = project_features(pooled[..., :narrow], self.maps * factors[:, :narrow, None])
        return mixed + pooled[..., narrow:] * factors[:, narrow:]

    def _factors(self) -> Tensor:
        """Return what each column of a row counts in the mixture [F, width]."""
        root = self.square.sqrt()
        return (self.mixture() * (root.mean() / root)).index_select(1, self.candidate)

    def components(self, slot: int, width: int, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows [n, width] and a projection [width, dim] that come closest to a feature's mixture.

        Args:
            slot: of the feature.
            width: how many principal components are kept.
            weight: of each id [n].
        """
        first = int(self.offset[slot])
        rows = self.rows(torch.arange(first, first + len(weight), device=weight.device))
        factors, narrow = self._factors()[slot], self.width - self.dim
        vectors = (
            rows[:, :narrow] @ (self.maps[slot] * factors[:narrow, None])
            + rows[:, narrow:] * factors[narrow:]
        )
        if width == self.dim:
            return vectors, torch.eye(width, device=weight.device)
        _, directions = torch.linalg.eigh((vectors.T * weight) @ vectors)
        kept = directions[:, -width:]
        return vectors @ kept, kept.T

    def mixture(self) -> Tensor:
        """Return the share of each candidate [F, C]; while training, what a feature draws for this batch.

        Drawn shares are a softmax with Gumbel noise, nearly one candidate at a low temperature. Without noise
        they are what is drawn on average.
        """
        shares = self._shares().log_softmax(dim=1)
        if not self.training:
            return shares.exp()
        noise = -torch.empty_like(shares).exponential_().log()
        return ((shares + noise) / self.temperature).softmax(dim=1)

    def expected_size(self) -> Tensor:
        """Return the bytes of rows and projections, as a share of the budget."""
        return (self._shares().softmax(dim=1) * self.size).sum()

    def penalty(self) -> Tensor:
        """Return the price of the expected size."""
        size = self.expected_size()
        return self.price * size + _DAMPING * F.relu(size - 1).square()

    @torch.no_grad()
    def on_step(self, clock: Clock) -> None:
        """Cool down over the first epoch, and raise the price while the size is above the budget."""
        epochs = clock.step / clock.steps_per_epoch
        self.temperature, self.pace = max(_COLDEST, 1 - epochs), _RATE / clock.steps_per_epoch
        rise = _PRICE_RATE / clock.steps_per_epoch * (self.expected_size() - 1)
        self.price.add_(rise).clamp_(min=0)

    def _shares(self) -> Tensor:
        """Return logarithmic shares, whose gradient is such that an epoch moves them alike however long."""
        return self.shares.detach() + self.pace * (self.shares - self.shares.detach())

    @torch.no_grad()
    def _measure(self, pooled: Tensor) -> None:
        """Follow each candidate's mean square, as a batch normalisation does, from some rows of a batch."""
        parts = torch.split(pooled, self.widths, dim=2)
        maps = torch.split(self.maps, self.widths[:-1], dim=1)
        outputs = [*map(project_features, parts, maps), parts[-1]]
        # A batch whose bags are all empty says nothing.
        square = torch.stack([output.square().mean() for output in outputs]).clamp(min=1e-12)
        self.square.lerp_(square, 1 - _MEMORY)


class AutoDim(EmbeddingTable, method="autodim"):
    """Candidate widths mixed per feature, then mixed dimensions of the widths that won."""

    kind = "width"
    paper = "Zhao et al., WWW 2021"
    stages = ("supernet", "retrain")
    Config = AutoDimConfig

    config: AutoDimConfig
    mixture: _Mixture | None
    narrow: Mde | None
    counts: Tensor

    def __init__(
        self,
        config: AutoDimConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.make_rows, self.init_std = make_rows, init_std
        sizes = [feature.num_ids for feature in features]
        self.mixture = _Mixture(sizes, dim, config.nbytes, make_rows, init_std)
        self.narrow = None
        self.register_buffer("counts", torch.ones(sum(sizes)), persistent=False)
        self.width = self.mixture.width

    @property
    def _now(self) -> _Mixture | Mde:
        """What serves the stage the table is in."""
        now = self.mixture or self.narrow
        assert now is not None
        return now

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width]: rows of all candidates, later those of the chosen width."""
        vectors: Tensor = self._now(ids, slot)
        return vectors

    def project(self, pooled: Tensor) -> Tensor:
        """Mix the candidates, later apply each feature's projection."""
        return self._now.project(pooled)

    def penalty(self) -> Tensor | None:
        """Return the price of the expected size while widths are searched."""
        return None if self.mixture is None else self.mixture.penalty()

    def use_counts(self, counts: Tensor) -> None:
        """Take the counts that say which ids' vectors a cut should keep best."""
        self.counts = counts.to(self.counts.device, torch.float32)

    def learning_rates(self) -> tuple[float, float]:
        """Go on carefully once the widths are chosen: the mixture was at its best already."""
        return (1.0, 1.0) if self.stage == "supernet" else (0.1, 0.1)

    def by_validation(self) -> list[tuple[nn.Parameter, float]]:
        """Shares learn from rows that the vectors they mix were not fitted to."""
        return [] if self.mixture is None else [(self.mixture.shares, 1.0)]

    def measured(self) -> list[Tensor]:
        """Return the candidates' mean squares."""
        return [] if self.mixture is None else [self.mixture.square]

    def on_step(self, clock: Clock) -> None:
        """Follow temperature and price."""
        if self.mixture is not None:
            self.mixture.on_step(clock)

    @torch.no_grad()
    def choose(self, stage: str) -> None:
        """Choose the widths by their shares, within the budget."""
        assert self.mixture is not None
        score = self.mixture.shares.log_softmax(dim=1)
        if score.is_meta:
            score = torch.zeros(score.shape, device="cpu")
        sizes = np.array([feature.num_ids for feature in self.features])
        widths = choose_widths(sizes, score.double().cpu().numpy(), self.dim, self.config.nbytes)
        self.config = dataclasses.replace(self.config, widths=widths)

    def set_stage(self, stage: str) -> None:
        """Leave all candidates behind for new rows of the chosen widths."""
        if stage == "retrain" and self.mixture is not None:
            if not self.config.widths:
                self.choose(stage)
            with self.mixture.offset.device:
                self.narrow = Mde(
                    MdeConfig(self.config.widths), self.features, self.dim, self.make_rows, self.init_std
                )
                if not self.mixture.offset.is_meta:
                    self._inherit(self.mixture, self.narrow)
            self.mixture = None
            self.width = self.narrow.width
        super().set_stage(stage)

    @torch.no_grad()
    def _inherit(self, mixture: _Mixture, narrow: Mde) -> None:
        """Fill the chosen widths with what the candidates learned together."""
        weights = torch.split(self.counts, [feature.num_ids for feature in self.features])
        mixture.eval()
        parts = [
            mixture.components(slot, width, weight)
            for slot, (width, weight) in enumerate(zip(self.config.widths, weights, strict=True))
        ]
        rows: Rows
        for rows in narrow.rows.rows:  # type: ignore[assignment]
            rows.assign(torch.cat([own for own, _ in parts if own.shape[1] == rows.width]))
        if narrow.projection is not None:
            narrow.projection.copy_(torch.cat([to_dim for _, to_dim in parts if len(to_dim) < self.dim]))

    def freeze(self) -> FrozenTable:
        """Return rows and projections as buffers."""
        return self._chosen().freeze()

    def bytes_by_feature(self) -> list[int]:
        """Return the bytes of each feature's rows and projection."""
        return self._chosen().bytes_by_feature()

    def _chosen(self) -> Mde:
        if self.narrow is None:
            raise SlimtabError(
                "autodim has no widths to freeze before its stage 'retrain'; call set_stage('retrain') first"
            )
        return self.narrow

    def stats(self) -> dict[str, float]:
        """Return what the search expects to cost, as a share of the budget, and then the mean widths."""
        if self.mixture is None:
            return self._chosen().stats()
        return {
            "expected_size": float(self.mixture.expected_size().detach()),
            "price": float(self.mixture.price),
            "largest_share": float(self.mixture.shares.detach().softmax(dim=1).amax(dim=1).mean()),
        }

    def stats_by_feature(self) -> dict[str, dict[str, float]]:
        """Return the width of each feature's rows: while widths are searched, the mean over its shares."""
        if self.mixture is None:
            return self._chosen().stats_by_feature()
        shares = self.mixture.shares.detach().softmax(dim=1)
        return {"width": self.named((shares @ shares.new_tensor(self.mixture.widths)).tolist())}
