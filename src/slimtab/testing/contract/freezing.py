"""What is served equals what was trained, is as small as claimed, and can be shipped."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import torch
from safetensors.torch import save_file

from slimtab.sizes import Budget
from slimtab.tables.base import in_last_stage
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.contract.setting import RATES, Setting
from slimtab.testing.training import every_id, planted_batches, train_steps
from slimtab.training.optimizers import Optimizers


class FreezingContract(Setting):
    """Tests of the frozen table."""

    def test_frozen_equals_eval_on_every_id(self) -> None:
        """What is shipped is what was measured."""
        collection = self.trained().tables
        table, frozen = self.table(collection), self.table(collection).freeze()
        ids, slot = every_id(table)
        with torch.no_grad():
            torch.testing.assert_close(frozen(ids, slot), table(ids, slot), rtol=0, atol=self.tolerance)
            pooled = torch.randn(5, len(table.features), table.width)
            torch.testing.assert_close(frozen.project(pooled), table.project(pooled), rtol=0, atol=0)

    def test_frozen_takes_no_ids(self) -> None:
        """A served batch may hold none of a feature, and a feature may have none that are coded."""
        frozen = self.table(self.trained().tables).freeze().eval()
        nothing = torch.empty(0, dtype=torch.int64)
        assert frozen(nothing, nothing).shape[0] == 0
        assert all(math.isfinite(value) for value in frozen.stats().values())

    def test_frozen_holds_buffers_only(self, tmp_path: Path) -> None:
        """Bytes are counted over buffers, and the file is as large as claimed (design §3)."""
        collection = self.trained().tables
        frozen = self.table(collection).freeze()
        assert list(frozen.parameters()) == []
        claim = Budget.parse(self.budget).resolve(self.schema.full_bytes(self.dim))
        assert frozen.serve_bytes() <= claim
        path = tmp_path / "tables.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in frozen.state_dict().items()}, path)
        assert path.stat().st_size <= frozen.serve_bytes() * 1.02 + 64 * 1024
        assert sum(self.table(collection).bytes_by_feature()) == frozen.serve_bytes()

    def test_frozen_is_a_copy(self) -> None:
        """Training on must not change what was frozen."""
        model = self.trained()
        frozen, (ids, slot) = self.table(model.tables).freeze(), every_id(self.table(model.tables))
        before = frozen(ids, slot).clone()
        train_steps(model, planted_batches(self.schema, 3, 256, seed=6), Optimizers(model, RATES, 4))
        assert torch.equal(frozen(ids, slot), before)

    def test_frozen_loads_into_a_freshly_built_one(self) -> None:
        """The file and the config rebuild the table; nothing lives in between."""
        table = self.table(self.trained().tables)
        frozen = in_last_stage(type(table)(table.config, table.features, self.dim, PlainRows, 0.0)).freeze()
        frozen.load_state_dict(table.freeze().state_dict())
        ids, slot = every_id(table)
        with torch.no_grad():
            assert torch.equal(frozen(ids, slot), table.freeze()(ids, slot))

    def test_frozen_pickles(self) -> None:
        """Serving processes receive it."""
        table = self.table(self.trained().tables)
        frozen, (ids, slot) = table.freeze(), every_id(table)
        assert torch.equal(pickle.loads(pickle.dumps(frozen))(ids, slot), frozen(ids, slot))

    def test_frozen_exports_with_a_dynamic_batch(self) -> None:
        """torch.export at one batch size answers at any other."""
        table = self.table(self.trained().tables)
        frozen, (ids, slot) = table.freeze(), every_id(table)
        rows = torch.export.Dim("rows", min=2)
        program = torch.export.export(frozen, (ids[:64], slot[:64]), dynamic_shapes=({0: rows}, {0: rows}))
        for count in (2, 63, len(ids)):
            torch.testing.assert_close(
                program.module()(ids[:count], slot[:count]), frozen(ids[:count], slot[:count])
            )

    def test_frozen_compiles_without_a_graph_break(self) -> None:
        """A break would send serving back to Python for every batch."""
        table = self.table(self.trained().tables)
        frozen, (ids, slot) = table.freeze(), every_id(table)
        torch.compiler.reset()
        compiled = torch.compile(frozen, fullgraph=True, backend="eager", dynamic=True)
        torch.testing.assert_close(compiled(ids, slot), frozen(ids, slot))
