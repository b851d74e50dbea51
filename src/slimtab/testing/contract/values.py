"""What a lookup gives: shapes, start values, bags, and ids that are out of range."""

from __future__ import annotations

import pytest
import torch

from slimtab.batch import Batch
from slimtab.errors import SlimtabError
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.contract.setting import Setting
from slimtab.testing.training import every_id, planted_batches


class ValuesContract(Setting):
    """Tests of looked-up and pooled vectors."""

    def test_shape_and_dtype(self) -> None:
        """Everything after a table is written for [N, width] float32, and [B, F, dim] after projection."""
        table = self.table(self.build())
        ids, slot = every_id(table)
        vectors = table(ids, slot)
        assert vectors.shape == (len(ids), table.width)
        assert vectors.dtype == torch.float32
        pooled = torch.randn(5, len(table.features), table.width)
        assert table.project(pooled).shape == (5, len(table.features), self.dim)

    def test_no_ids_at_all(self) -> None:
        """The last multi-hot batch of a quiet feature holds none."""
        table = self.table(self.build())
        nothing = torch.empty(0, dtype=torch.int64)
        assert table(nothing, nothing).shape == (0, table.width)

    def test_start_values_have_the_asked_variance(self) -> None:
        """Methods are compared from equal starts, else one compares initialisations (methods.md §0.3)."""
        table = self.table(self.build(PlainRows))
        ids, slot = every_id(table)
        with torch.no_grad():
            vectors = self.vectors(table.eval(), ids, slot)
        assert float(vectors.std()) == pytest.approx(0.1, rel=self.spread)

    def test_one_by_one_equals_all_at_once(self) -> None:
        """What an id's vector is must not depend on the company it is looked up in."""
        table = self.table(self.trained().tables)
        ids, slot = every_id(table)
        some = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[:50]
        with torch.no_grad():
            together = table(ids, slot)[some]
            alone = torch.cat([table(ids[i : i + 1], slot[i : i + 1]) for i in some.tolist()])
        torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)

    def test_vectors_are_combined_before_pooling(self) -> None:
        """Σ Q⊙R is not ΣQ ⊙ ΣR: a bag is the sum of its ids' vectors, an empty bag is zero."""
        collection = self.trained().tables
        table = self.table(collection)
        batch = planted_batches(self.schema, 1, 64, seed=3)[0]
        assert batch.ragged is not None
        slot = len(self.schema.one_hot)
        with torch.no_grad():
            bags = collection.embed(batch)[:, slot]
            ids = batch.ragged.values
            single = self.vectors(table, ids, torch.full_like(ids, slot))
        rows = torch.repeat_interleave(torch.arange(64), batch.ragged.lengths[0])
        expected = torch.zeros(64, self.dim).index_add_(0, rows, single)
        torch.testing.assert_close(bags, expected, rtol=1e-4, atol=1e-5)
        empty = batch.ragged.lengths[0] == 0
        assert bool(empty.any())
        assert float(bags[empty].abs().max()) == 0.0

    def test_ids_out_of_range_are_named(self) -> None:
        """An id outside its table is never read as another row."""
        collection, batch = self.build(), planted_batches(self.schema, 1, 8, seed=0)[0]
        ids = batch.ids.clone()
        ids[5, 1] = 3000
        with pytest.raises(SlimtabError, match="feature 'C2', row 5 of the batch: id 3000"):
            collection.embed(Batch(batch.dense, batch.keys, ids, batch.label, batch.ragged))

    def test_the_same_id_of_two_features_differs(self) -> None:
        """Country 5 is not device 5, also where features share storage."""
        if not self.distinguishes:
            pytest.skip("this method gives features that look alike the same vectors")
        table = self.table(self.build()).eval()
        ids = torch.arange(300)
        with torch.no_grad():
            one, other = (table(ids, torch.full_like(ids, slot)) for slot in (2, 4))
        assert float((one != other).any(dim=1).float().mean()) > 0.9
