"""Hash embeddings: a few shared component rows, weighted for each id.

Svenstrup, Hansen & Winther, "Hash embeddings for efficient word representations", NeurIPS 2017. Two ids are
alike only when they share all components and the row of weights too, and the weights are cheap: a row of
``probes`` floats against one of ``dim``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimtab import kernels
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig
from slimtab.tables.hashing import MAX_ROWS, hash_rows, make_salts
from slimtab.tables.parts.reading import read_rows, sum_rows
from slimtab.tables.rows.base import RowsFactory


@dataclass(frozen=True)
class HashEmbeddingConfig(TableConfig):
    """Settings of :class:`HashEmbedding`.

    Attributes:
        components: rows of the shared component table, each ``dim`` wide.
        importances: rows of weights, each of ``probes`` floats.
        probes: components added up for each id.
        share: of the floats, how many are weights.
    """

    by_budget = ("components", "importances")

    components: int = 0
    importances: int = 0
    probes: int = 2
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise SlimtabError(f"hash_embedding cannot add {self.probes} rows; set probes to 1 or more")
        if not 0 < self.share < 1:
            raise SlimtabError(
                f"hash_embedding needs weights and components; set share between 0 and 1, not {self.share}"
            )

    @classmethod
    def _salt_bytes(cls, features: Sequence[Feature], config: HashEmbeddingConfig) -> int:
        return 8 * len(features) * (config.probes + 1)

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return one component, one row of weights, and the salts."""
        config = cls(**options)
        return 4 * (dim + config.probes) + cls._salt_bytes(features, config)

    @classmethod
    def _largest(
        cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any
    ) -> HashEmbeddingConfig:
        config = cls(**options)
        floats = (nbytes - cls._salt_bytes(features, config)) // 4
        # Rounded to components first: weights are the finer step, and take what is left.
        components = max(1, min(int(floats * (1 - config.share)), floats - config.probes) // dim)
        importances = min((floats - components * dim) // config.probes, MAX_ROWS)
        components = min((floats - importances * config.probes) // dim, MAX_ROWS)
        return cls(**{**options, "components": components, "importances": importances})


class _Hashes(nn.Module):
    """From ids to their components and their row of weights."""

    salt: Tensor

    def __init__(self, features: Sequence[Feature], config: HashEmbeddingConfig) -> None:
        super().__init__()
        self.components, self.importances = config.components, config.importances
        self.register_buffer("salt", make_salts([f.name for f in features], config.probes + 1))

    def forward(self, ids: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
        """Return component numbers [N, probes] and weight rows [N], both int64."""
        # The weights have a hash of their own: ids that share a component seldom share them.
        salts = [salt.index_select(0, slot) for salt in self.salt.unbind(dim=1)]
        components = torch.stack([hash_rows(ids, salt, self.components) for salt in salts[:-1]], dim=1)
        return components, hash_rows(ids, salts[-1], self.importances)


def _weighted_sum(components: Tensor, weights: Tensor) -> Tensor:
    """Return [N, dim] = Σ_j ``weights`` [N, probes] · ``components`` [N · probes, dim]."""
    components = components.view(-1, weights.shape[1], components.shape[1])
    total = components[:, 0] * weights[:, :1]
    for probe in range(1, weights.shape[1]):
        total = torch.addcmul(total, components[:, probe], weights[:, probe : probe + 1])
    return total


class _FrozenHashEmbedding(FrozenTable):
    """Components, weights, and the hashes that find them."""

    components: Tensor
    importances: Tensor

    def __init__(self, hashes: _Hashes, components: Tensor, importances: Tensor) -> None:
        super().__init__()
        self.hashes = hashes
        self.register_buffer("components", components)
        self.register_buffer("importances", importances)

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        if kernels.ready(self.components, self.importances, ids, slot):
            from slimtab.kernels.hash_embedding import read_hash_embedding

            return read_hash_embedding(self.components, self.importances, self.hashes.salt, ids, slot)
        component, importance = self.hashes(ids, slot)
        weights = read_rows(self.importances, importance)
        return sum_rows(self.components, component, weights)


class HashEmbedding(EmbeddingTable, method="hash_embedding"):
    """One table of components and one of weights, shared by every feature of the group."""

    kind = "static sharing"
    hashes_ids = True
    paper = "Svenstrup et al., NeurIPS 2017"
    spreads = True
    Config = HashEmbeddingConfig

    def __init__(
        self,
        config: HashEmbeddingConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.hashes = _Hashes(features, config)
        self.components = make_rows(config.components, dim, init_std)
        # A weight is 1/√k + its row: k components so weighted have the variance of one, and decay, which
        # pulls rows to 0, pulls weights there.
        self.importances = make_rows(config.importances, config.probes, 0.0)
        self._rest = config.probes**-0.5

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, dim]."""
        component, importance = self.hashes(ids, slot)
        weights = self.importances(importance) + self._rest
        return _weighted_sum(self.components(component.flatten()), weights)

    def freeze(self) -> FrozenTable:
        """Return components, weights and hashes as buffers."""
        weights = self.importances.values() + self._rest
        return _FrozenHashEmbedding(self.hashes, self.components.values(), weights)

    def search_space(self) -> dict[str, Sequence[Any]]:
        """Return how to split the budget, and over how many components."""
        return {"share": (0.125, 0.25, 0.5), "probes": (2, 3, 4)}

    def stats(self) -> dict[str, float]:
        """Return rows of both tables, and ids that share one on average."""
        ids = sum(feature.num_ids for feature in self.features)
        components, importances = self.components.num_rows, self.importances.num_rows
        return {
            "components": components,
            "importances": importances,
            "ids_per_component": ids * self.importances.width / components,
            "ids_per_importance": ids / importances,
        }
