"""OptEmbed: which rows are worth keeping, and how wide they must be, learned in one supernet.

Lyu, Tang, Zhu & Liu, "OptEmbed: learning optimal embedding table for click-through rate prediction",
CIKM 2022. The supernet zeroes rows whose norm is below a learned threshold of their feature, and cuts every
vector of every sample to a width drawn for it, so that each width works. Then widths and rows are chosen,
the others are removed for good, and what is left is trained from its start values. Thresholds are in units
of the mean norm here, for how large rows grow is the optimizer's doing: Adam's are many times AdaMax's.

`slimtab search` chooses by evolution on validation rows. Trained by itself the table chooses on its own: the
rows and columns with the most energy, as often as they are read, that the budget has room for.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.cut import CutRows, cut_bytes, fixed_bytes
from slimtab.tables.parts.shape import Shape, even_shape, richest_shape
from slimtab.tables.parts.starts import starts
from slimtab.tables.parts.step import step
from slimtab.tables.rows.base import RowsFactory
from slimtab.tables.rows.plain import PlainRows

_MEASURED = 100  # steps from one measurement of the rows' norms to the next


@dataclass(frozen=True)
class OptEmbedConfig(TableConfig):
    """Settings of :class:`OptEmbed`.

    Attributes:
        floats: of all rows together that may be kept.
        kept: rows kept of each feature, once they are chosen.
        widths: of each feature's rows, once they are chosen.
        alpha: weight of Σ exp(−threshold), which pushes thresholds up.
        threshold_lr: learning rate of thresholds.
    """

    by_budget = ("floats", "kept", "widths")
    rows_are_cut: ClassVar[bool] = True
    columns_are_cut: ClassVar[bool] = True

    floats: int = 0
    kept: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    alpha: float = 0.001
    threshold_lr: float = 0.01

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one float of one row per feature; of every row, or whole rows, where those are not cut."""
        sizes = [feature.num_ids for feature in features]
        kept = [1] * len(sizes) if cls.rows_are_cut else sizes
        return cut_bytes(sizes, kept, [1 if cls.columns_are_cut else dim] * len(sizes), dim)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> OptEmbedConfig:
        sizes = [feature.num_ids for feature in features]
        floats = (nbytes - fixed_bytes(sizes)) // 4 - dim
        return cls(**{**options, "floats": min(floats, dim * sum(sizes))})


class OptEmbed(EmbeddingTable, method="optembed"):
    """A full table under thresholds and drawn widths, then what was chosen of it."""

    kind = "pruned"
    paper = "Lyu et al., CIKM 2022"
    stages = ("supernet", "retrain")
    rewinds = ("retrain",)
    Config = OptEmbedConfig
    config: OptEmbedConfig

    offset: Tensor
    norm: Tensor
    mask: Tensor | None
    counts: Tensor | None
    thresholds: nn.Parameter | None

    def __init__(
        self,
        config: OptEmbedConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self._make_rows = make_rows
        self.sizes = [feature.num_ids for feature in features]
        # One that was cut before never needs the rows it was cut from.
        self.rows: nn.Module = make_rows(0 if config.widths else sum(self.sizes), dim, init_std)
        thresholds = nn.Parameter(torch.zeros(len(self.sizes))) if config.rows_are_cut else None
        self.register_parameter("thresholds", thresholds)
        self.register_buffer("offset", starts(self.sizes), persistent=False)
        self.register_buffer("norm", torch.ones(()))
        self.register_buffer("mask", None)
        self.register_buffer("counts", None, persistent=False)

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]; zeros for rows below their threshold, or removed."""
        if self.stage == "retrain":
            return self.rows(ids, slot)  # type: ignore[no-any-return]
        address = ids + self.offset.index_select(0, slot)
        rows: Tensor = self.rows(address)
        if self.thresholds is not None:
            norms = rows.abs().sum(dim=1) / self.norm
            rows = rows * step(norms - self.thresholds.index_select(0, slot))[:, None]
        return rows if self.mask is None else rows * self.mask.index_select(0, address)[:, None]

    def project(self, pooled: Tensor) -> Tensor:
        """While the supernet trains, cut each vector of [B, F, dim] to a width drawn for it from 1 … dim."""
        if not self.training or self.stage == "retrain" or not self.config.columns_are_cut:
            return pooled
        widths = torch.randint(1, self.dim + 1, (*pooled.shape[:2], 1), device=pooled.device)
        return pooled * (torch.arange(self.dim, device=pooled.device) < widths)

    @torch.no_grad()
    def on_step(self, clock: Clock) -> None:
        """Now and then, take the mean norm of all rows for the unit of thresholds."""
        if self.thresholds is not None and clock.step % _MEASURED == 0:
            self.norm.fill_(self._norms().mean().clamp(min=torch.finfo(torch.float32).tiny))

    def _norms(self) -> Tensor:
        """Return the L1 norms of all rows [n]."""
        return self.rows.values().abs().sum(dim=1)  # type: ignore[operator, no-any-return]

    def penalty(self) -> Tensor | None:
        """Return α · Σ exp(−threshold)."""
        return None if self.thresholds is None else self.config.alpha * torch.exp(-self.thresholds).sum()

    def by_sgd(self) -> list[tuple[nn.Parameter, float]]:
        """Return the thresholds."""
        return [] if self.thresholds is None else [(self.thresholds, self.config.threshold_lr)]

    def use_counts(self, counts: Tensor) -> None:
        """Weigh rows by how often they are read, where no optimizer of theirs knows more."""
        self.counts = counts.to(self.offset.device, torch.float32)

    @torch.no_grad()
    def energy(self) -> Tensor:
        """Return what the loss would feel of each coordinate of each row if it went [n, dim].

        That is squared gradient · value² over training, with gradients averaged over a row; a coordinate has
        the share of them that drawn widths left it. Rows below their threshold have none.
        """
        values: Tensor = self.rows.values()  # type: ignore[operator]
        touches = values.new_ones(len(values)) if self.counts is None else self.counts
        felt = self.rows.squared_gradients(touches)  # type: ignore[operator]
        energy: Tensor = values.square() * felt[:, None]
        if self.config.columns_are_cut:
            energy *= 1 - torch.arange(self.dim, device=values.device) / self.dim
        if self.thresholds is not None:
            limit = self.thresholds.repeat_interleave(torch.tensor(self.sizes, device=values.device))
            energy *= (values.abs().sum(dim=1) / self.norm > limit)[:, None]
        return energy

    def choose(self, stage: str) -> None:
        """Keep what has the most energy within the budget."""
        self._take(self._richest())

    def _richest(self) -> Shape:
        if self.offset.is_meta:
            return even_shape(self.sizes, self.dim, self.config)
        return richest_shape(self.energy(), self.sizes, self.config)

    def cut_to(self, shape: Shape) -> None:
        """Let the next stage have the rows and widths of ``shape``.

        Raises:
            SlimtabError: when it keeps more floats than the budget has room for.
        """
        if shape.floats > self.config.floats:
            raise SlimtabError(
                f"{shape.floats} floats do not fit the {self.config.floats} of the budget; raise it"
            )
        self._take(shape)

    def _take(self, shape: Shape) -> None:
        self.config = dataclasses.replace(self.config, kept=shape.kept, widths=shape.widths)
        self.mask = shape.mask

    def set_stage(self, stage: str) -> None:
        """Remove rows and columns for good."""
        if stage == "retrain":
            if not self.config.widths:
                self.choose(stage)
            shape = Shape(self.config.kept, self.config.widths, self.mask)
            self.rows = self._cut(shape, self._make_rows)
            self.mask, self.thresholds, self.counts = None, None, None
        super().set_stage(stage)

    def freeze(self) -> FrozenTable:
        """Return what was chosen; in the supernet, what would be chosen now, not trained on."""
        if self.stage == "retrain":
            return self.rows.freeze()  # type: ignore[operator, no-any-return]
        return self._cut(self._richest(), PlainRows).freeze()

    @torch.no_grad()
    def _cut(self, shape: Shape, make_rows: RowsFactory) -> CutRows:
        """Return what ``shape`` keeps of the table; no values where it does not say of which rows."""
        cut = CutRows(self.sizes, shape.kept, shape.widths, self.dim, make_rows)
        if shape.mask is not None:
            cut.assign(shape.mask, self.rows.values())  # type: ignore[operator]
        return cut

    def bytes_by_feature(self) -> list[int]:
        """Return the bytes of each feature's rows, with its share of the bitmap."""
        if not self.config.widths:
            return super().bytes_by_feature()
        own = [
            4 * rows * width + 16 for rows, width in zip(self.config.kept, self.config.widths, strict=True)
        ]
        shared, total = self.serve_bytes() - sum(own), sum(self.sizes)
        edges = [shared * upto // total for upto in accumulate(self.sizes, initial=0)]
        return [nbytes + b - a for nbytes, (a, b) in zip(own, itertools.pairwise(edges), strict=True)]

    def stats(self) -> dict[str, float]:
        """Return rows kept and the mean width once chosen, and thresholds until then."""
        if self.config.widths:
            kept = sum(self.config.kept)
            floats = sum(r * w for r, w in zip(self.config.kept, self.config.widths, strict=True))
            return {"rows_kept": kept / sum(self.sizes), "mean_width": floats / max(kept, 1)}
        if self.thresholds is None:
            return {}
        return {"mean_threshold": float(self.thresholds.detach().mean())}

    @torch.no_grad()
    def stats_by_feature(self) -> dict[str, dict[str, float]]:
        """Return rows kept and width once chosen, and the rows above their threshold until then."""
        if self.config.widths:
            shares = [kept / size for kept, size in zip(self.config.kept, self.sizes, strict=True)]
            return {"rows_kept": self.named(shares), "width": self.named(self.config.widths)}
        if self.thresholds is None:
            return {}
        norms = torch.split(self._norms() / self.norm, self.sizes)
        above = [float((n > t).float().mean()) for n, t in zip(norms, self.thresholds, strict=True)]
        return {"rows_kept": self.named(above)}
