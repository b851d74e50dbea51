"""DHE: no table at all; an id is hashed a thousand times and a network turns the hashes into its vector.

Kang et al., "Learning to embed categorical features without embedding tables for recommendation", KDD 2021.
Each large feature has a network of its own: hashes in [−1, 1], hidden layers of Linear, BatchNorm and Mish,
and a linear layer. In training BatchNorm sees the distinct ids of a batch; frozen, it is folded into the
linear layers, and those are what the budget pays for.

The hashes are multiply-shift (Dietzfelbinger et al., 1997) in wrapping int64: the upper half of
a_j · mix(x) + b_j, read as a signed fraction. All a_j and b_j come from one stored number by mixing, and
features differ by a salt: 8 bytes each, instead of 16 bytes per hash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.hashing import make_salts, mix64
from slimtab.tables.parts.blocks import make_blocks
from slimtab.tables.parts.sizing import largest
from slimtab.tables.rows.base import RowsFactory

_EPS, _MOMENTUM = 1e-5, 0.1  # of BatchNorm
_SAMPLE = 256  # ids that the start values are measured on
_BLOCKS = 8  # that a frozen lookup splits into, and one more per feature


@dataclass(frozen=True)
class DHEConfig(TableConfig):
    """Settings of :class:`DHE`.

    Attributes:
        width: of the hidden layers. A feature that would not get smaller stays full; at 0 all do.
        hashes: numbers an id is encoded in.
        layers: hidden layers.
    """

    by_budget = ("width",)

    width: int = 0
    hashes: int = 1024
    layers: int = 5

    def __post_init__(self) -> None:
        if self.hashes < 1 or self.layers < 1:
            raise SlimtabError(
                f"dhe cannot work with {self.hashes} hashes and {self.layers} layers; set both to 1 or more"
            )

    def network_bytes(self, dim: int, width: int) -> int:
        """Return the bytes of one feature's network of some ``width``, and of its salt."""
        hidden = (self.hashes + 1) * width + (self.layers - 1) * (width + 1) * width
        return 4 * (hidden + (width + 1) * dim) + 8

    def is_full(self, num_ids: int, dim: int) -> bool:
        """Return whether a feature keeps its rows."""
        return self.width == 0 or self.network_bytes(dim, self.width) >= 4 * dim * num_ids

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return what networks of width 1 take."""
        full, config = [4 * dim * feature.num_ids for feature in features], cls(**options)
        least = sum(min(rows, config.network_bytes(dim, 1)) for rows in full)
        return min(sum(full), least + 8)  # the number the hashes come from

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> DHEConfig:
        full, config = [4 * dim * feature.num_ids for feature in features], cls(**options)
        if sum(full) <= nbytes:
            return config
        width = largest_width(full, nbytes - 8, lambda width: config.network_bytes(dim, width))
        return cls(**{**options, "width": width})


def largest_width(full: Sequence[int], limit: int, cost: Callable[[int], int]) -> int:
    """Return the largest width at which features take at most ``limit``, each the least of table and network.

    Args:
        full: what each feature's table takes.
        limit: less than all tables together.
        cost: what a network of some width takes.
    """
    return largest(
        lambda width: sum(min(rows, cost(width)) for rows in full) <= limit, 1, math.isqrt(max(full)) + 1
    )


class _Encoder(nn.Module):
    """From ids to the number of their network or of their row, and to their hashes."""

    salt: Tensor
    seed: Tensor
    network: Tensor
    offset: Tensor

    def __init__(self, config: DHEConfig, features: Sequence[Feature], dim: int) -> None:
        super().__init__()
        self.hashes = config.hashes
        self.whole = [config.is_full(feature.num_ids, dim) for feature in features]
        hashed = [feature.name for feature, whole in zip(features, self.whole, strict=True) if not whole]
        rows = [f.num_ids * whole for f, whole in zip(features, self.whole, strict=True)]
        self.networks, self.full_rows = len(hashed), sum(rows)
        # A full feature has the number behind the last network.
        before = list(accumulate((not whole for whole in self.whole), initial=0))
        numbers = [len(hashed) if w else b for w, b in zip(self.whole, before[:-1], strict=True)]
        salt = make_salts(hashed, 1)[:, 0].contiguous() if hashed else torch.empty(0, dtype=torch.int64)
        self.register_buffer("salt", salt)
        self.register_buffer("seed", make_salts(["dhe"] if hashed else [""], 1)[: bool(hashed), 0].clone())
        self.register_buffer("network", torch.tensor(numbers), persistent=False)
        offset = list(accumulate(rows, initial=0))[:-1]
        self.register_buffer("offset", torch.tensor(offset), persistent=False)

    def mixed(self, ids: Tensor, network: Tensor) -> Tensor:
        """Return ids [N] scrambled by the salts of their networks [N]."""
        return mix64(ids ^ self.salt[network])

    def forward(self, mixed: Tensor) -> Tensor:
        """Return the hashes of scrambled ids [..., k], float32 in [−1, 1)."""
        a, b = mix64(self.seed + torch.arange(2 * self.hashes, device=mixed.device)).chunk(2)
        words = mixed[..., None] * (a | 1) + b
        return (words >> 32).float() * 2.0**-31


class _FrozenDHE(FrozenTable):
    """The networks with BatchNorm folded in, and the rows of full features."""

    costly = True

    weight: Tensor
    bias: Tensor
    last_bias: Tensor

    def __init__(
        self, encoder: _Encoder, matrices: Sequence[Tensor], bias: Tensor, last_bias: Tensor, weight: Tensor
    ) -> None:
        super().__init__()
        self.encoder, self.layers = encoder, len(matrices)
        for number, matrix in enumerate(matrices):
            self.register_buffer(f"matrix{number}", matrix)
        self.register_buffer("bias", bias)
        self.register_buffer("last_bias", last_bias)
        self.register_buffer("weight", weight)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        networks = self.encoder.networks
        network = self.encoder.network[slot]
        full = network == networks
        plain = made = None
        if self.encoder.full_rows:
            plain = F.embedding((ids + self.encoder.offset[slot]).where(full, 0), self.weight)
        if networks:
            # Ids of full features go along behind the last network, with any weights, and are left out.
            ascending, order = torch.sort(network, stable=True)
            mixed = self.encoder.mixed(ids, network.clamp(max=networks - 1))[order]
            size = ids.shape[0] // _BLOCKS + 2  # never 1, which torch.export would make a case of its own
            blocks = make_blocks(ascending, networks + 1, size, exact=False)
            which = blocks.matrix.clamp(max=networks - 1)
            hidden = self.encoder(blocks.spread(mixed))
            for number in range(self.layers - 1):
                matrix = getattr(self, f"matrix{number}").index_select(0, which)
                hidden = F.mish(
                    torch.baddbmm(self.bias[number].index_select(0, which)[:, None], hidden, matrix)
                )
            last = getattr(self, f"matrix{self.layers - 1}").index_select(0, which)
            out = torch.baddbmm(self.last_bias.index_select(0, which)[:, None], hidden, last).flatten(0, 1)
            place = torch.empty_like(order).scatter(0, order, blocks.place)
            made = out.index_select(0, place)
        if plain is None or made is None:
            return plain if made is None else made  # type: ignore[return-value]
        return torch.where(full[:, None], plain, made)


class DHE(EmbeddingTable, method="dhe"):
    """A network for each large feature, and plain rows for the small ones."""

    kind = "static sharing"
    costly = True
    paper = "Kang et al., KDD 2021"
    whole_batch = True
    Config = DHEConfig

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        config: DHEConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.encoder = _Encoder(config, features, dim)
        self.rows = make_rows(self.encoder.full_rows, dim, init_std)
        count, h = self.encoder.networks, config.width
        inputs = [config.hashes, *[h] * config.layers]
        outputs = [*[h] * config.layers, dim]
        # No bias before BatchNorm: it takes the mean away, and brings a bias of its own.
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.empty(count, i, o).normal_(0.0, max(i, 1) ** -0.5))
            for i, o in zip(inputs, outputs, strict=True)
            if count
        )
        norms = (config.layers, count, h) if count else (0, 0, 0)
        self.scale = nn.Parameter(torch.ones(norms)) if count else None
        self.shift = nn.Parameter(torch.zeros(norms)) if count else None
        self.last_bias = nn.Parameter(torch.zeros(count, dim)) if count else None
        self.register_buffer("mean", torch.zeros(norms))
        self.register_buffer("variance", torch.ones(norms))
        if count:
            self._calibrate(init_std)

    @torch.no_grad()
    def _calibrate(self, init_std: float) -> None:
        """Measure BatchNorm's start on some ids, and scale the last layer to ``init_std``.

        So that eval is what training is from the first step on, whatever the width.
        """
        assert self.last_bias is not None
        ids = torch.arange(_SAMPLE)
        hidden = self.encoder(mix64(ids ^ self.encoder.salt[:, None]))
        for number, matrix in enumerate(self.matrices[:-1]):
            hidden = torch.bmm(hidden, matrix)
            self.mean[number], self.variance[number] = hidden.mean(dim=1), hidden.var(dim=1)
            hidden = F.mish((hidden - self.mean[number, :, None]) * self._inverse(number)[:, None])
        last = self.matrices[-1]
        out = torch.bmm(hidden, last)
        last *= init_std / (out - out.mean(dim=1, keepdim=True)).std(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        self.last_bias.copy_(-torch.bmm(hidden, last).mean(dim=1))

    def _inverse(self, number: int) -> Tensor:
        return (self.variance[number] + _EPS).rsqrt()

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        network = self.encoder.network[slot]
        vectors = torch.zeros(len(ids), self.dim, device=ids.device)
        at = (network == self.encoder.networks).nonzero().squeeze(1)
        if len(at):
            vectors = vectors.index_copy(0, at, self.rows(ids[at] + self.encoder.offset[slot[at]]))
        at = (network < self.encoder.networks).nonzero().squeeze(1)
        if len(at):
            vectors = vectors.index_copy(0, at, self._compute(ids[at], network[at]))
        return vectors

    def _compute(self, ids: Tensor, network: Tensor) -> Tensor:
        """Return vectors [N, dim] of ids [N] by their networks [N]: side by side, padded to the longest."""
        assert self.last_bias is not None
        ascending, order = torch.sort(network, stable=True)
        count = torch.bincount(network, minlength=self.encoder.networks)
        longest = int(count.max())
        within = torch.arange(len(ids), device=ids.device) - (count.cumsum(0) - count)[ascending]
        place = torch.empty_like(order).scatter(0, order, ascending * longest + within)
        padded = ids.new_zeros(len(count) * longest)
        padded = padded.scatter(0, place, self.encoder.mixed(ids, network)).view(-1, longest)
        real = (torch.arange(longest, device=ids.device) < count[:, None])[:, :, None]
        hidden = self.encoder(padded)
        for number, matrix in enumerate(self.matrices[:-1]):
            hidden = F.mish(self._normalised(number, torch.bmm(hidden, matrix), count, real))
        out = torch.baddbmm(self.last_bias[:, None], hidden, self.matrices[-1])
        return F.embedding(place, out.flatten(0, 1))

    def _normalised(self, number: int, hidden: Tensor, count: Tensor, real: Tensor) -> Tensor:
        """Apply BatchNorm ``number`` to ``hidden`` [C, T, h], of which ``count`` [C] ids are ``real``."""
        assert self.scale is not None
        assert self.shift is not None
        mean, variance = self.mean[number, :, None], self.variance[number, :, None]
        if self.training:
            ids = count[:, None, None]
            enough = ids > 1  # one id has no variance: it takes the running one
            seen = (hidden * real).sum(dim=1, keepdim=True) / ids.clamp(min=1)
            spread = ((hidden - seen).square() * real).sum(dim=1, keepdim=True) / ids.clamp(min=1)
            with torch.no_grad():
                unbiased = spread * ids / (ids - 1).clamp(min=1)
                step = _MOMENTUM * enough[:, 0]
                self.mean[number] += step * (seen - mean)[:, 0]
                self.variance[number] += step * (unbiased - variance)[:, 0]
            mean, variance = torch.where(enough, seen, mean), torch.where(enough, spread, variance)
        normal = (hidden - mean) * (variance + _EPS).rsqrt()
        return torch.addcmul(self.shift[number, :, None], normal, self.scale[number, :, None])

    def freeze(self) -> FrozenTable:
        """Return networks with BatchNorm folded in, and rows, as buffers."""
        if self.scale is None or self.shift is None or self.last_bias is None:
            empty = torch.empty(0)
            return _FrozenDHE(self.encoder, [], empty, empty, self.rows.values())
        with torch.no_grad():
            factor = self.scale * (self.variance + _EPS).rsqrt()
            bias = self.shift - self.mean * factor
            matrices = [matrix * f[:, None] for matrix, f in zip(self.matrices[:-1], factor, strict=True)]
            matrices.append(self.matrices[-1].detach().clone())
            last_bias = self.last_bias.detach().clone()
        return _FrozenDHE(self.encoder, matrices, bias, last_bias, self.rows.values())

    def bytes_by_feature(self) -> list[int]:
        """Return the bytes of each feature's network or rows; the hashes' seed is the first network's."""
        assert isinstance(self.config, DHEConfig)
        network = self.config.network_bytes(self.dim, self.config.width)
        sizes = [feature.num_ids for feature in self.features]
        split = [4 * self.dim * n if w else network for n, w in zip(sizes, self.encoder.whole, strict=True)]
        if self.encoder.networks:
            split[self.encoder.whole.index(False)] += 8
        return split

    def stats(self) -> dict[str, float]:
        """Return the width, and the share of features that stay full."""
        whole = self.encoder.whole
        return {
            "width": self.matrices[0].shape[2] if self.matrices else 0,
            "full_features": sum(whole) / len(whole),
        }
