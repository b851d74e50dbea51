"""Rows that are trained through product codes (:mod:`slimtab.tables.parts.product_codes`)."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.schema import Feature
from slimtab.tables.base import Clock, EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.parts.codes import pack_codes
from slimtab.tables.parts.product_codes import FrozenProductCodes, nearest_pieces
from slimtab.tables.parts.product_config import ProductConfig
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory

_LEAST_STEPS = 50  # between two searches for unused pieces


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

    def row_like(self) -> list[tuple[nn.Parameter, int]]:
        """Return the codebook."""
        return [(self.codebook, 1)]

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
