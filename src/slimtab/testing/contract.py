"""The contract every method keeps, as tests: subclass :class:`TableContract` and pytest runs them all.

Example:
    >>> class TestMine(TableContract):
    ...     method = "mine"
"""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from slimtab.batch import Batch
from slimtab.collection import TableCollection
from slimtab.config import OptimizerSettings
from slimtab.errors import SlimtabError
from slimtab.models.base import CTRModel, build_model
from slimtab.schema import Feature
from slimtab.sizes import Budget
from slimtab.tables.base import EmbeddingTable, get_method, in_last_stage
from slimtab.tables.rows import FusedRowsFactory, PlainRows, RowOptimizer, RowsFactory, SteppedRows
from slimtab.testing.fakes import fake_schema
from slimtab.testing.training import every_id, planted_batches, train_steps, walk_stages
from slimtab.training.metrics import predict
from slimtab.training.optimizers import Optimizers, fused_rows

SIZES = st.lists(
    st.one_of(st.integers(1, 300), st.integers(1, 100_000), st.integers(1, 10**7)), min_size=1, max_size=60
)
RATES = OptimizerSettings(rows_lr=0.02, rows_decay=0.1, lr=0.002)


class TableContract:
    """Tests of one method at one setting.

    Attributes:
        method: registered name.
        options: options of its config.
        budget: serving bytes it is tested at; for methods of a fixed size, that size or more.
        dim: embedding width.
        tolerance: how far a frozen table may be from eval, absolutely (0: bit for bit).
        spread: by how much the standard deviation of start values may miss, relatively.
        distinguishes: whether the same id of two features has two vectors.
    """

    method: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    budget: ClassVar[str] = "25%"
    dim: ClassVar[int] = 8
    tolerance: ClassVar[float] = 0.0
    spread: ClassVar[float] = 0.1
    distinguishes: ClassVar[bool] = True

    schema = fake_schema([7, 3000, 300, 1, 300], multi_hot=[2000])

    # What a method may say of itself.

    def may_waste(self, counted: int, nbytes: int, features: list[Feature], dim: int) -> bool:
        """Whether the method's next larger step does not fit ``nbytes``; one row of ``dim`` for most."""
        return nbytes - counted < 4 * dim

    # Helpers.

    def build(
        self, make_rows: RowsFactory | None = None, seed: int = 0, init_std: float = 0.1
    ) -> TableCollection:
        """Return a new collection."""
        torch.manual_seed(seed)
        rows = make_rows or FusedRowsFactory(RowOptimizer(lr=0.02))
        counts = {f.name: torch.arange(f.num_ids, 0, -1).numpy() for f in self.schema.features}
        return TableCollection.build(
            self.schema.features,
            self.dim,
            self.method,
            self.budget,
            self.options,
            rows,
            init_std,
            "error",
            counts,
        )

    def table(self, collection: TableCollection) -> EmbeddingTable:
        """Return the collection's table."""
        assert isinstance(collection.table, EmbeddingTable)
        return collection.table

    def model(self, collection: TableCollection, seed: int = 0) -> CTRModel:
        """Return a small DeepFM over the collection."""
        torch.manual_seed(seed)
        return build_model("deepfm", collection, len(self.schema.numerics), {"mlp": [16]})

    def trained(self) -> CTRModel:
        """Return a model trained for a few steps in every stage, in eval mode."""
        model = self.model(self.build(fused_rows(RATES, 4)))
        walk_stages(model, planted_batches(self.schema, 4, 256, seed=1), RATES)
        return model.eval()

    def vectors(self, table: EmbeddingTable, ids: Tensor, slot: Tensor) -> Tensor:
        """Return projected vectors [N, dim] of single ids."""
        looked_up = table(ids, slot)
        pooled = looked_up.new_zeros(len(ids), len(table.features), looked_up.shape[1])
        pooled[torch.arange(len(ids)), slot] = looked_up
        return table.project(pooled)[torch.arange(len(ids)), slot]

    # Shapes.

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

    # Bags and ids.

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

    # State.

    def test_state_dict_is_complete(self) -> None:
        """Masks, codes and seeds are buffers: a checkpoint alone rebuilds the table."""
        table = self.table(self.trained().tables)
        other = self.table(self.build(fused_rows(RATES, 4), seed=7))
        other.adopt(table.config)
        in_last_stage(other).load_state_dict(table.state_dict())
        ids, slot = every_id(table)
        with torch.no_grad():
            assert torch.equal(other.eval()(ids, slot), table(ids, slot))

    def test_copies_and_pickles(self) -> None:
        """Closures would not; users send models to worker processes."""
        model = self.trained()
        model.zero_grad()
        table = self.table(model.tables)
        ids, slot = every_id(table)
        with torch.no_grad():
            for other in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
                assert torch.equal(other(ids, slot), table(ids, slot))

    def test_same_seed_same_weights(self) -> None:
        """Runs are compared over seeds, so a seed must mean something."""
        one, other = self.trained().state_dict(), self.trained().state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_resumes_in_mid_training(self) -> None:
        """State, optimizer and generator saved after three steps, loaded elsewhere: the same three follow."""
        batches = planted_batches(self.schema, 6, 64, seed=2)
        whole = self.model(self.build(fused_rows(RATES, 6)))
        own = Optimizers(whole, RATES, 6)
        train_steps(whole, batches[:3], own)
        saved = io.BytesIO()
        torch.save([whole.state_dict(), own.tensors(), own.scalars(), torch.get_rng_state()], saved)
        train_steps(whole, batches[3:], own)
        saved.seek(0)
        state, tensors, scalars, generator = torch.load(saved, weights_only=True)
        resumed = self.model(self.build(fused_rows(RATES, 6), seed=5), seed=5)
        again = Optimizers(resumed, RATES, 6)
        resumed.load_state_dict(state)
        again.load(tensors, scalars)
        torch.set_rng_state(generator)
        train_steps(resumed, batches[3:], again)
        one, other = whole.state_dict(), resumed.state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)

    # Learning.

    def test_gradient_reaches_everything(self) -> None:
        """A part that nothing trains is bytes for nothing."""
        collection = self.build(fused_rows(RATES, 4))
        model, table = self.model(collection), self.table(collection)
        for stage in table.stages:
            if stage != table.stage:
                table.set_stage(stage)
            model.train()
            train_steps(model, planted_batches(self.schema, 1, 256, seed=4), Optimizers(model, RATES, 4))
            model.zero_grad()
            loss = model(planted_batches(self.schema, 1, 512, seed=5)[0]).square().mean()
            penalty = table.penalty()
            torch.autograd.backward(loss if penalty is None else loss + penalty)
            for name, parameter in table.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, f"{stage}: {name}"
                    assert float(parameter.grad.abs().sum()) > 0, f"{stage}: {name}"
            for name, rows in table.named_modules():
                if isinstance(rows, SteppedRows) and rows.num_rows:
                    assert rows.grad_norm(), f"{stage}: {name}"

    def test_learns_a_planted_signal(self) -> None:
        """Better by 0.05 AUC than the same model whose tables stay as they began."""
        train, held_out = (
            planted_batches(self.schema, 60, 512, seed=10),
            planted_batches(self.schema, 8, 512, seed=11),
        )
        auc = {}
        for moves in (True, False):
            model = self.model(self.build(fused_rows(RATES, 60), init_std=0.02))
            if moves:
                for _ in range(3):
                    walk_stages(model, train, RATES)
            else:
                network = torch.optim.AdamW(
                    [p for n, p in model.named_parameters() if not n.startswith("tables.")], lr=RATES.lr
                )
                for batch in train * 3:
                    network.zero_grad()
                    with torch.no_grad():
                        vectors = model.tables.embed(batch)
                    logit = model.interact(batch.dense, vectors)
                    torch.autograd.backward(binary_cross_entropy_with_logits(logit, batch.label))
                    network.step()
            label, probability = predict(model, held_out)
            auc[moves] = roc_auc_score(label, probability)
        assert auc[True] > auc[False] + 0.05, auc

    # Freezing.

    def test_frozen_equals_eval_on_every_id(self) -> None:
        """What is shipped is what was measured."""
        collection = self.trained().tables
        table, frozen = self.table(collection), self.table(collection).freeze()
        ids, slot = every_id(table)
        with torch.no_grad():
            torch.testing.assert_close(frozen(ids, slot), table(ids, slot), rtol=0, atol=self.tolerance)
            pooled = torch.randn(5, len(table.features), table.width)
            torch.testing.assert_close(frozen.project(pooled), table.project(pooled), rtol=0, atol=0)

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

    # Budgets.

    def counted(self, features: list[Feature], dim: int, nbytes: int) -> int:
        """Return the bytes of what the budget makes, counted on the meta device."""
        table_type = get_method(self.method)
        config = table_type.Config.for_budget(features, dim, nbytes, **self.options)
        with torch.device("meta"):
            return in_last_stage(table_type(config, features, dim, PlainRows, 0.1)).freeze().serve_bytes()

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.differing_executors])
    @given(sizes=SIZES, dim=st.sampled_from([4, 8, 16, 32, 64, 128]), share=st.floats(0.001, 1.0))
    def test_budget_is_kept_and_used(self, sizes: list[int], dim: int, share: float) -> None:
        """Never above the budget, and at least 95 % of it where the method's steps allow."""
        features = [Feature(f"C{number}", size) for number, size in enumerate(sizes)]
        smallest = get_method(self.method).Config.smallest_bytes(features, dim, **self.options)
        nbytes = max(smallest, int(share * 4 * dim * sum(sizes)))
        counted = self.counted(features, dim, nbytes)
        assert counted <= nbytes
        if counted < 0.95 * nbytes:
            unlimited = self.counted(features, dim, 100 * 4 * dim * sum(sizes) + 10**6)
            assert counted == unlimited or self.may_waste(counted, nbytes, features, dim), (
                counted,
                nbytes,
            )

    @settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.differing_executors])
    @given(sizes=SIZES, dim=st.sampled_from([4, 16, 64]))
    def test_smallest_size_is_real_and_named(self, sizes: list[int], dim: int) -> None:
        """The error is an instruction: the size it names must work, and one byte less must not."""
        features = [Feature(f"C{number}", size) for number, size in enumerate(sizes)]
        config = get_method(self.method).Config
        smallest = config.smallest_bytes(features, dim, **self.options)
        assert self.counted(features, dim, smallest) <= smallest
        with pytest.raises(SlimtabError, match=f"cannot fit .*{smallest} bytes"):
            config.for_budget(features, dim, smallest - 1, **self.options)
