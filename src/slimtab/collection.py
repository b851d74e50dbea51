"""TableCollection: what a model sees of its tables. Batch or KeyedJaggedTensor in, vectors out.

It takes the place of torchrec's EmbeddingBagCollection, and it alone knows about bags: an embedding
table only ever turns single ids into vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimtab.batch import Batch, Ragged
from slimtab.config import Rule
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.sizes import Budget
from slimtab.tables.base import EmbeddingTable, FrozenTable
from slimtab.tables.grouped import read_config, size_table
from slimtab.tables.parts.distinct import distinct, pair_numbers
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.base import RowsFactory
from slimtab.tables.rows.plain import PlainRows

if TYPE_CHECKING:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

CheckIds = Literal["error", "oov"]


class TableCollection(nn.Module):
    """Embeddings of all features of a model, in ``features`` order: one-hot ones first, then multi-hot.

    Args:
        table: vectors for single ids of all the features.
        features: the features, in the table's slot order; all one-hot ones stand before the multi-hot ones.
        dim: width of each feature's embedding.
        check_ids: what to do with an id outside its feature's range: ``error`` names it,
            ``oov`` reads row 0. It is never read as another row.
    """

    table: EmbeddingTable | FrozenTable
    _last: Tensor
    _offset: Tensor
    _averaged: Tensor

    def __init__(
        self,
        table: EmbeddingTable | FrozenTable,
        features: Sequence[Feature],
        dim: int,
        check_ids: CheckIds = "error",
    ) -> None:
        super().__init__()
        self.table, self.features, self.dim, self.check_ids = table, tuple(features), dim, check_ids
        self._one_hot = sum(not feature.multi_hot for feature in self.features)
        if any(feature.multi_hot for feature in self.features[: self._one_hot]):
            raise SlimtabError(
                "one-hot features come before multi-hot ones in a collection; sort the features"
            )
        # What the schema says, kept out of state_dict: the last id of each, and which bags are averaged.
        last = [
            f.num_ids - 1 if f.encoding == "vocab" else torch.iinfo(torch.int64).max for f in self.features
        ]
        self.register_buffer("_last", torch.tensor(last), persistent=False)
        # Numbers every (feature, id) differently; ids that are hashes are told apart by hashing once more.
        self._numbered = all(feature.encoding == "vocab" for feature in self.features)
        self.register_buffer(
            "_offset", starts(feature.num_ids for feature in self.features), persistent=False
        )
        averaged = [feature.pooling == "mean" for feature in self.features]
        self.register_buffer("_averaged", torch.tensor(averaged), persistent=False)
        self._slot_of = {feature.name: slot for slot, feature in enumerate(self.features)}
        self._orders: dict[tuple[tuple[str, ...], int, int], tuple[int, ...]] = {}

    @classmethod
    def build(
        cls,
        features: Sequence[Feature],
        dim: int,
        method: str = "full",
        budget: str | int | None = None,
        options: Mapping[str, Any] | None = None,
        make_rows: RowsFactory = PlainRows,
        init_std: float = 0.01,
        check_ids: CheckIds = "error",
        counts: Mapping[str, NDArray[np.int64]] | None = None,
        rules: Sequence[Rule] = (),
        sized: tuple[str, Mapping[str, Any]] | None = None,
    ) -> TableCollection:
        """Size a method's table to a budget and wrap it.

        Args:
            features: categorical features of the schema.
            dim: embedding width.
            method: registered name of the method.
            budget: serving bytes, as ``"10%"``, ``"4MB"`` or a number; None allows the full table's bytes.
            options: fields of the method's config that the budget does not choose.
            make_rows: storage of looked-up rows; ordinary parameters unless told otherwise.
            init_std: standard deviation each coordinate starts with.
            check_ids: see the class.
            counts: how often the training rows hold each id [num_ids], by feature, for methods that ask.
            rules: other methods for some of the features, within the same budget.
            sized: method and config, as plain values, of a table that was sized before; then nothing else
                sizes it.

        Raises:
            SlimtabError: when the method or an option is unknown, or the budget cannot be reached.
        """
        if not features:
            raise SlimtabError("the dataset has no categorical feature, so there is no table to build")
        if dim < 1:
            raise SlimtabError(f"embeddings of width {dim} hold nothing; give a width of 1 or more")
        ordered = sorted(features, key=lambda feature: feature.multi_hot)
        full = 4 * dim * sum(feature.num_ids for feature in ordered)
        nbytes = full if budget is None else Budget.parse(budget).resolve(full)
        if sized is None:
            table = size_table(ordered, dim, nbytes, method, options, rules)(make_rows, init_std)
        else:
            kind, config = read_config(*sized)
            table = kind(config, ordered, dim, kind.rows_from(make_rows), init_std)
        if counts is not None and all(feature.name in counts for feature in ordered):
            table.use_counts(torch.from_numpy(np.concatenate([counts[feature.name] for feature in ordered])))
        return cls(table, ordered, dim, check_ids)

    @property
    def device(self) -> torch.device:
        """Where ids are looked up."""
        return self._offset.device

    def embed(self, batch: Batch) -> Tensor:
        """Return embeddings [B, F, dim] of a batch, in ``self.features`` order."""
        columns = self._order(batch.keys, 0, self._one_hot)
        ids = batch.ids if columns == tuple(range(self._one_hot)) else batch.ids[:, list(columns)]
        parts = []
        if self._one_hot:
            slot = torch.arange(self._one_hot, device=ids.device)  # of each column; broadcasts over rows
            ids = self._checked(ids, slot, lambda position: position // self._one_hot)
            looked_up = self._vectors(ids, slot)
            parts.append(looked_up.view(batch.size, self._one_hot, looked_up.shape[1]))
        if self._one_hot < len(self.features):
            if batch.ragged is None:
                raise SlimtabError(
                    f"the batch holds no multi-hot ids, but '{self.features[-1].name}' needs them"
                )
            ragged = self._known(batch.ragged)
            order = self._order(ragged.keys, self._one_hot, len(self.features))
            slots = torch.tensor([self._slot_of[key] for key in ragged.keys], device=ids.device)
            pooled = self._pool(ragged.values, ragged.lengths, slots, None)
            parts.append(pooled if order == tuple(range(len(order))) else pooled[:, list(order)])
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return self.table.project(vectors)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Return a KeyedTensor [B, F · dim], as torchrec's EmbeddingBagCollection does.

        Args:
            features: ids by feature, ragged, with per-id weights or without. Features that this
                collection does not know are left alone.

        Raises:
            SlimtabError: when a feature is missing, or an id is outside its range.
        """
        from torchrec.sparse.jagged_tensor import KeyedTensor

        order = self._order(tuple(features.keys()), 0, len(self.features))
        if order != tuple(range(len(features.keys()))):
            features = features.permute(list(order))
        slots = torch.arange(len(self.features), device=features.values().device)
        lengths = features.lengths().view(len(self.features), -1)
        vectors = self.table.project(
            self._pool(features.values().long(), lengths, slots, features.weights_or_none())
        )
        return KeyedTensor(
            keys=[feature.name for feature in self.features],
            length_per_key=[self.dim] * len(self.features),
            values=vectors.flatten(1),
        )

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """Return what torchrec's models ask a collection for: one config per feature."""
        from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType

        return [
            EmbeddingBagConfig(
                name=f"t_{feature.name}",
                embedding_dim=self.dim,
                num_embeddings=feature.num_ids,
                feature_names=[feature.name],
                pooling=PoolingType.MEAN if feature.pooling == "mean" else PoolingType.SUM,
            )
            for feature in self.features
        ]

    def freeze(self) -> TableCollection:
        """Return the collection with its table frozen, for serving."""
        assert isinstance(self.table, EmbeddingTable)
        return TableCollection(self.table.freeze(), self.features, self.dim, self.check_ids)

    def _vectors(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width] for N ids in any shape; ``slot`` broadcasts against them.

        While gradients are on, each id is looked up once however often the batch holds it: ids are skewed,
        so that saves most of a method's work, and of the random reads and writes behind it. Costly lookups
        are spared in evaluation too.
        """
        flat, flat_slot = ids.reshape(-1), slot.expand_as(ids).reshape(-1)
        spared = self.table.costly and not torch.compiler.is_compiling()
        if not (torch.is_grad_enabled() or spared):
            return self.table(flat, flat_slot)  # type: ignore[no-any-return]
        numbers = pair_numbers(ids, slot, self._offset if self._numbered else None)
        each = distinct(numbers.reshape(-1))
        return each.expand(self.table(flat[each.places], flat_slot[each.places]))

    def _pool(self, values: Tensor, lengths: Tensor, slots: Tensor, weights: Tensor | None) -> Tensor:
        """Sum or average vectors over bags: [B, len(slots), width] for ``lengths`` [len(slots), B].

        Vectors are looked up per id and weighted before they are summed; an empty bag is zero.
        """
        features, size = lengths.shape
        bags = torch.arange(features * size, device=values.device)
        bag = torch.repeat_interleave(bags, lengths.reshape(-1), output_size=values.shape[0])
        slot = slots[bag // size]
        vectors = self._vectors(self._checked(values, slot, lambda position: int(bag[position]) % size), slot)
        if weights is not None:
            vectors = vectors * weights[:, None]
        pooled = vectors.new_zeros(features * size, vectors.shape[1]).index_add(0, bag, vectors)
        pooled = pooled.view(features, size, vectors.shape[1])
        count = torch.where(self._averaged[slots][:, None], lengths, 1).clamp(min=1)
        averaged: Tensor = pooled / count[..., None]
        return averaged.transpose(0, 1)

    def _checked(self, ids: Tensor, slot: Tensor, row_at: Callable[[int], int]) -> Tensor:
        """Return ``ids`` with none outside its feature's range; ``row_at`` tells the row of a position."""
        outside: Tensor = (ids < 0) | (ids > self._last[slot])
        if self.check_ids == "oov":
            return ids.masked_fill(outside, 0)
        if bool(outside.any()):
            position = int(outside.reshape(-1).nonzero()[0])
            feature = self.features[int(slot.expand_as(ids).reshape(-1)[position])]
            allowed = f"0 … {feature.num_ids - 1}" if feature.encoding == "vocab" else "0 … 2^63 − 1"
            raise SlimtabError(
                f"feature '{feature.name}', row {row_at(position)} of the batch: "
                f"id {int(ids.reshape(-1)[position])} is outside {allowed}; "
                "encode the rows with this model's vocabulary, or set check_ids to oov"
            )
        return ids

    def _known(self, ragged: Ragged) -> Ragged:
        """Return the features of ``ragged`` that this collection has."""
        known = [key in self._slot_of for key in ragged.keys]
        if all(known):
            return ragged
        kept = torch.tensor(known, device=ragged.values.device)
        values = ragged.values[kept.repeat_interleave(ragged.lengths.sum(dim=1))]
        keys = tuple(key for key in ragged.keys if key in self._slot_of)
        return Ragged(keys, values, ragged.lengths[kept])

    def _order(self, keys: tuple[str, ...], start: int, stop: int) -> tuple[int, ...]:
        """Return where features ``start`` … ``stop`` stand among ``keys``, resolved once per set of keys."""
        if (keys, start, stop) not in self._orders:
            wanted = [feature.name for feature in self.features[start:stop]]
            missing = [name for name in wanted if name not in keys]
            if missing:
                raise SlimtabError(
                    f"feature '{missing[0]}' is missing from the batch; it holds {', '.join(keys) or 'none'}"
                )
            self._orders[keys, start, stop] = tuple(keys.index(name) for name in wanted)
        return self._orders[keys, start, stop]
