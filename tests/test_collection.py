"""TableCollection: what TorchRec's EmbeddingBagCollection does, for tables of any method."""

import copy

import numpy as np
import pytest
import torch
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from slimtab.batch import Batch, Ragged
from slimtab.collection import TableCollection
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.testing import fake_batch, fake_schema

DIM = 8
SCHEMA = fake_schema([10, 300, 7], multi_hot=[50, 30])
METHODS = [("full", None, {}), ("hash", "40%", {"probes": 2}), ("unified", "40%", {"project": True})]


def build(features=SCHEMA.features, method="full", budget=None, options=None, **kwargs):
    torch.manual_seed(0)
    collection = TableCollection.build(features, DIM, method, budget, options, init_std=0.1, **kwargs)
    if collection.table.projection is not None:
        torch.nn.init.normal_(collection.table.projection)
    return collection


def torchrec_twin(collection, is_weighted=False):
    """TorchRec's own collection with the weights of a full one."""
    twin = EmbeddingBagCollection(tables=collection.embedding_bag_configs(), is_weighted=is_weighted)
    rows, start = collection.table.rows.values(), 0
    for feature in collection.features:
        weight = twin.embedding_bags[f"t_{feature.name}"].weight
        weight.data.copy_(rows[start : start + feature.num_ids])
        start += feature.num_ids
    return twin


def random_kjt(features, size, seed, longest=4, weighted=False):
    """Bags of 0 … ``longest`` ids."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, (len(features), size))
    values = [rng.integers(0, f.num_ids, n) for f, n in zip(features, lengths.sum(1), strict=True)]
    values = torch.from_numpy(np.concatenate(values))
    return KeyedJaggedTensor(
        keys=[feature.name for feature in features],
        values=values,
        lengths=torch.from_numpy(lengths.flatten()).int(),
        weights=torch.from_numpy(rng.random(len(values), dtype=np.float32)) if weighted else None,
        stride=size,
    )


def multi_hot(*poolings):
    return tuple(Feature(f"M{n}", 40 + n, multi_hot=True, pooling=p) for n, p in enumerate(poolings))


class TestAgainstTorchRec:
    """Same weights, same batch, same answer: the collection can take its place."""

    def test_one_hot(self):
        """The common case, through the KeyedJaggedTensor door."""
        collection = build(fake_schema([10, 300, 7]).features)
        kjt = fake_batch(fake_schema([10, 300, 7]), 33, 0).kjt()
        ours, theirs = collection(kjt), torchrec_twin(collection)(kjt)
        assert ours.keys() == theirs.keys()
        assert ours.length_per_key() == theirs.length_per_key()
        torch.testing.assert_close(ours.values(), theirs.values())

    @pytest.mark.parametrize("poolings", [("sum", "sum"), ("mean", "mean"), ("sum", "mean")])
    def test_bags_some_of_them_empty(self, poolings):
        """Bags of 0 to 4 ids; an empty bag is zero under both poolings, never NaN."""
        collection = build(multi_hot(*poolings))
        kjt = random_kjt(collection.features, 50, seed=1)
        ours, theirs = collection(kjt).values(), torchrec_twin(collection)(kjt).values()
        torch.testing.assert_close(ours, theirs)
        assert bool((kjt.lengths() == 0).any())

    def test_weighted_bags(self):
        """Weights scale vectors before they are summed."""
        collection = build(multi_hot("sum", "sum"))
        kjt = random_kjt(collection.features, 50, seed=2, weighted=True)
        torch.testing.assert_close(
            collection(kjt).values(), torchrec_twin(collection, is_weighted=True)(kjt).values()
        )

    def test_all_bags_empty(self):
        """A cold-start batch."""
        collection = build(multi_hot("sum", "mean"))
        kjt = random_kjt(collection.features, 5, seed=0, longest=0)
        assert torch.equal(collection(kjt).values(), torch.zeros(5, 2 * DIM))
        with torch.no_grad():
            assert torch.equal(collection(kjt).values(), torch.zeros(5, 2 * DIM))

    def test_gradients(self):
        """What arrives at the rows, duplicates and bags included, is what arrives in TorchRec's tables."""
        collection = build()
        twin = torchrec_twin(collection)
        kjt = fake_batch(SCHEMA, 64, 3).kjt()
        weight = torch.randn(64, len(SCHEMA.features) * DIM)
        (collection(kjt).values() * weight).sum().backward()
        (twin(kjt).values() * weight).sum().backward()
        theirs = torch.cat([twin.embedding_bags[f"t_{f.name}"].weight.grad for f in collection.features])
        torch.testing.assert_close(collection.table.rows.weight.grad, theirs)

    def test_configs_describe_the_features(self):
        """TorchRec's models size themselves by these."""
        configs = build(multi_hot("sum", "mean")).embedding_bag_configs()
        assert all(isinstance(config, EmbeddingBagConfig) for config in configs)
        assert [config.feature_names for config in configs] == [["M0"], ["M1"]]
        assert [config.num_embeddings for config in configs] == [40, 41]
        assert [config.embedding_dim for config in configs] == [DIM, DIM]
        assert [config.pooling for config in configs] == [PoolingType.SUM, PoolingType.MEAN]


@pytest.mark.parametrize("setting", METHODS, ids=[name for name, *_ in METHODS])
class TestEveryMethod:
    """What the collection does around a table does not depend on the table."""

    def build(self, setting, **kwargs):
        return build(SCHEMA.features, *setting, **kwargs)

    def test_embed_equals_forward(self, setting):
        """slimtab's models take the fast door, TorchRec's the other one; both see the same vectors."""
        collection, batch = self.build(setting), fake_batch(SCHEMA, 33, 4)
        vectors = collection.embed(batch)
        assert vectors.shape == (33, 5, DIM)
        torch.testing.assert_close(vectors.flatten(1), collection(batch.kjt()).values())

    def test_training_and_eval_read_the_same(self, setting):
        """While gradients are on each id is looked up once per batch; that may not change a bit."""
        collection, batch = self.build(setting), fake_batch(SCHEMA, 200, 5)
        with torch.no_grad():
            assert torch.equal(collection.embed(batch), collection.embed(batch))
            quiet = collection.embed(batch)
        torch.testing.assert_close(collection.embed(batch), quiet, rtol=0, atol=1e-7)

    def test_columns_in_any_order(self, setting):
        """Batches name their columns; position means nothing."""
        collection, batch = self.build(setting), fake_batch(SCHEMA, 33, 6)
        ragged = batch.ragged
        parts = torch.split(ragged.values, ragged.lengths.sum(1).tolist())
        turned = Batch(
            batch.dense,
            batch.keys[::-1],
            batch.ids.flip(1),
            batch.label,
            Ragged(ragged.keys[::-1], torch.cat(parts[::-1]), ragged.lengths.flip(0)),
        )
        torch.testing.assert_close(collection.embed(turned), collection.embed(batch))
        kjt = batch.kjt()
        torch.testing.assert_close(
            collection(kjt.permute([4, 2, 0, 3, 1])).values(), collection(kjt).values()
        )

    def test_one_row(self, setting):
        """Online serving scores rows one at a time."""
        collection, batch = self.build(setting), fake_batch(SCHEMA, 1, 7)
        assert collection.embed(batch).shape == (1, 5, DIM)

    def test_no_rows(self, setting):
        """A filtered batch may be empty."""
        collection, batch = self.build(setting), fake_batch(SCHEMA, 0, 7)
        assert collection.embed(batch).shape == (0, 5, DIM)
        with torch.no_grad():
            assert collection.embed(batch).shape == (0, 5, DIM)

    def test_frozen_equals_eval(self, setting):
        """Pooling and projection included."""
        collection, batch = self.build(setting), fake_batch(SCHEMA, 33, 8)
        frozen = collection.freeze()
        with torch.no_grad():
            assert torch.equal(frozen.embed(batch), collection.embed(batch))
            assert torch.equal(frozen(batch.kjt()).values(), collection(batch.kjt()).values())
        assert set(frozen.state_dict()) == {f"table.{name}" for name in frozen.table.state_dict()}

    def test_fused_rows_learn(self, setting):
        """Gradients flow through lookup, pooling and projection into the rows."""
        optimizer = RowOptimizer(lr=0.05)
        collection = self.build(setting, make_rows=FusedRowsFactory(optimizer))
        batch = fake_batch(SCHEMA, 64, 9)
        losses = []
        for _ in range(30):
            collection.table.rows.zero_grad()
            loss = (collection.embed(batch) - 1.0).square().mean()
            loss.backward()
            collection.table.rows.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.7 * losses[0]

    def test_deepcopy(self, setting):
        """The key-order cache and the buffers outside state_dict travel along."""
        collection, batch = self.build(setting), fake_batch(SCHEMA, 9, 1)
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(collection).embed(batch), collection.embed(batch))


def dlrm(collection):
    return DLRM(
        embedding_bag_collection=collection,
        dense_in_features=3,
        dense_arch_layer_sizes=[16, DIM],
        over_arch_layer_sizes=[16, 1],
    )


def deepfm(collection):
    return SimpleDeepFMNN(
        num_dense_features=3, embedding_bag_collection=collection, hidden_layer_size=16, deep_fm_dimension=5
    )


@pytest.mark.parametrize("setting", METHODS, ids=[name for name, *_ in METHODS])
@pytest.mark.parametrize("make", [dlrm, deepfm])
def test_takes_the_place_of_torchrecs_collection(make, setting):
    """Issue 2: fits torchrec's DLRM and SimpleDeepFMNN unchanged, and trains there."""
    torch.manual_seed(0)
    collection = build(SCHEMA.features, *setting)
    model = make(collection)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = fake_batch(SCHEMA, 256, 0)
    kjt, losses = batch.kjt(), []
    for _ in range(40):
        optimizer.zero_grad()
        out = model(dense_features=batch.dense, sparse_features=kjt).squeeze(1)
        if make is dlrm:  # logits here, probabilities from SimpleDeepFMNN
            out = torch.sigmoid(out)
        loss = torch.nn.functional.binary_cross_entropy(out, batch.label)
        loss.backward()
        assert collection.table.rows.weight.grad.abs().sum() > 0
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("make", [dlrm, deepfm])
def test_torchrec_models_answer_as_with_their_own_collection(make):
    """Same weights below, same network above: same predictions."""
    collection = build()
    model = make(collection)
    twin = make(torchrec_twin(collection))
    state = {k: v for k, v in model.state_dict().items() if "embedding_bag_collection" not in k}
    assert twin.load_state_dict(state, strict=False).unexpected_keys == []
    batch = fake_batch(SCHEMA, 32, 1)
    torch.testing.assert_close(model(batch.dense, batch.kjt()), twin(batch.dense, batch.kjt()))


def with_id(batch, row, column, value):
    ids = batch.ids.clone()
    ids[row, column] = value
    return Batch(batch.dense, batch.keys, ids, batch.label, batch.ragged)


@pytest.mark.parametrize("value", [300, 301, 2**40, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize("door", ["embed", "forward"])
def test_an_id_outside_its_table_is_named(value, door):
    """Issue 2: feature, id, row and allowed range; never a crash, never another feature's row."""
    collection, batch = build(), with_id(fake_batch(SCHEMA, 33, 0), 21, 1, value)
    message = rf"feature 'C2', row 21 of the batch: id {value} is outside 0 … 299; .*check_ids"
    with pytest.raises(SlimtabError, match=message):
        collection.embed(batch) if door == "embed" else collection(batch.kjt())


def test_an_id_outside_its_table_in_a_bag_is_named():
    """The row is that of the bag, counted in rows, not in values."""
    values, lengths = torch.tensor([4, 5, 6, 31]), torch.tensor([[0, 2, 0, 2]])
    batch = Batch(
        torch.zeros(4, 0), (), torch.zeros(4, 0).long(), torch.zeros(4), Ragged(("M2",), values, lengths)
    )
    collection = build((Feature("M2", 30, multi_hot=True),))
    with pytest.raises(SlimtabError, match="feature 'M2', row 3 of the batch: id 31 is outside 0 … 29"):
        collection.embed(batch)


@pytest.mark.parametrize("value", [300, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize("setting", METHODS, ids=[name for name, *_ in METHODS])
def test_oov_reads_row_zero_instead(value, setting):
    """Serving may not fail on a new token; it reads what training knows as out of vocabulary."""
    collection = build(SCHEMA.features, *setting, check_ids="oov")
    batch = fake_batch(SCHEMA, 33, 0)
    wild, zero = (collection.embed(with_id(batch, 21, 1, v)) for v in (value, 0))
    assert torch.equal(wild, zero)


@pytest.mark.parametrize("method", ["hash", "unified"])
def test_hashed_ids_use_all_63_bits(method):
    """--ids hash: any id that is not negative is in range, and none is cut to 32 or 53 bits."""
    features = (Feature("a", 1000, "hash"), Feature("b", 1000, "hash"), Feature("c", 1000))
    collection = build(features, method, "50%")
    ids = torch.tensor([[2**62, 0, 1], [2**62 + 1, 0, 1], [2**62 + 2**33, 0, 1], [2**63 - 1, 2**53 + 1, 999]])
    batch = Batch(torch.zeros(4, 0), ("a", "b", "c"), ids, torch.zeros(4))
    vectors = collection.embed(batch)
    assert len(vectors[:, 0].unique(dim=0)) == 4
    with torch.no_grad():
        torch.testing.assert_close(collection.embed(batch), vectors.detach())
    with pytest.raises(SlimtabError, match=r"'a'.*id -7 is outside 0 … 2\^63 − 1"):
        collection.embed(with_id(batch, 2, 0, -7))


@pytest.mark.parametrize("method", ["hash", "unified"])
def test_each_hashed_id_is_looked_up_once_and_put_back_in_place(method):
    """Distinct ids are found by hashing (feature, id); equal ids of two features may not be merged."""
    features = tuple(Feature(f"C{n}", 1000, "hash") for n in range(6))
    collection = build(features, method, "80%")
    rng = torch.Generator().manual_seed(0)
    pool = torch.randint(0, 2**63 - 1, (20,), generator=rng)
    ids = pool[torch.randint(0, 20, (500, 6), generator=rng)]
    batch = Batch(torch.zeros(500, 0), tuple(f.name for f in features), ids, torch.zeros(500))
    slot = torch.arange(6).repeat(500)
    expected = collection.table(ids.flatten(), slot).view(500, 6, DIM)
    torch.testing.assert_close(collection.embed(batch), expected)


def test_missing_features_are_named():
    """Silently skipping a column would train a different model."""
    collection, batch = build(), fake_batch(SCHEMA, 5, 0)
    with pytest.raises(SlimtabError, match=r"feature 'C3' is missing from the batch; it holds C1, C2$"):
        collection.embed(Batch(batch.dense, batch.keys[:2], batch.ids[:, :2], batch.label, batch.ragged))
    with pytest.raises(SlimtabError, match="no multi-hot ids, but 'M2' needs them"):
        collection.embed(Batch(batch.dense, batch.keys, batch.ids, batch.label))
    with pytest.raises(SlimtabError, match="feature 'M2' is missing"):
        collection(batch.kjt().permute([0, 1, 2, 3]))


def test_missing_features_are_named_after_a_good_batch_too():
    """The cache of key orders may not mistake the one-hot columns of a batch for all keys of a KJT."""
    collection, batch = build(), fake_batch(SCHEMA, 5, 0)
    collection.embed(batch)
    with pytest.raises(SlimtabError, match="feature 'M1' is missing"):
        collection(batch.kjt().permute([0, 1, 2]))


def test_features_it_does_not_know_are_left_alone():
    """A dataset may hold more columns than a model uses."""
    batch = fake_batch(SCHEMA, 20, 0)
    some = tuple(f for f in SCHEMA.features if f.name in ("C2", "M2"))
    collection = build(some)
    torch.testing.assert_close(collection.embed(batch).flatten(1), collection(batch.kjt()).values())


def test_features_are_sorted_when_built():
    """Schemas list columns in file order; embeddings stand one-hot first."""
    mixed = (SCHEMA.features[3], SCHEMA.features[0], SCHEMA.features[4], SCHEMA.features[2])
    assert [feature.name for feature in build(mixed).features] == ["C1", "C3", "M1", "M2"]
    with pytest.raises(SlimtabError, match="one-hot features come before"):
        TableCollection(build(mixed).table, mixed, DIM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ()}, "no categorical feature"),
        ({"method": "unifed"}, "no method 'unifed'; did you mean 'unified'"),
        ({"method": "full", "budget": "10%"}, "full cannot fit"),
        ({"budget": "ten"}, "budget 'ten'"),
        ({"dim": 0}, "width 0"),
    ],
)
def test_wrong_settings_are_one_line(change, message):
    """They come straight from a command line."""
    settings = {"features": SCHEMA.features, "dim": DIM, "method": "hash", "budget": "50%", **change}
    with pytest.raises(SlimtabError, match=message):
        TableCollection.build(**settings)


def test_without_a_budget_the_full_bytes_are_allowed():
    """`slimtab train DATA` works with no budget given."""
    collection = build(method="unified")
    assert collection.table.serve_bytes() <= SCHEMA.full_bytes(DIM)
    assert build().table.serve_bytes() == SCHEMA.full_bytes(DIM)


def test_compiles_without_a_graph_break():
    """A frozen collection that maps strange ids to OOV is one graph."""
    collection = build(fake_schema([10, 300, 7]).features, "unified", "40%", check_ids="oov").freeze()
    batch = fake_batch(fake_schema([10, 300, 7]), 33, 0)
    torch.compiler.reset()
    compiled = torch.compile(collection.embed, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(batch), collection.embed(batch))
