"""`slimtab.compress` in models that know nothing of slimtab: torchrec's, plain PyTorch, another library's."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM, DLRM_DCN
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from slimtab import compress
from slimtab.errors import SlimtabError

SIZES = {"a": 3000, "b": 20, "c": 5000}
DIM = 8


class PlainDLRM(nn.Module):
    """A DLRM as people write it: one bag per feature, dot products between their vectors."""

    def __init__(self, **bag):
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(n, DIM, mode="sum", **bag) for n in SIZES.values())
        self.bottom = nn.Sequential(nn.Linear(3, DIM), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(DIM + 6, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, dense, ids, offsets):
        bottom = self.bottom(dense)
        vectors = [bag(i, o) for bag, i, o in zip(self.bags, ids, offsets, strict=True)]
        stack = torch.stack([bottom, *vectors], dim=1)
        one, other = torch.triu_indices(4, 4, offset=1)
        dots = (stack @ stack.transpose(1, 2))[:, one, other]
        return self.top(torch.cat([bottom, dots], dim=1)).squeeze(1)


def plain_batch(size=128, seed=0):
    rng = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, n, (size,), generator=rng) for n in SIZES.values()]
    label = (ids[0] % 2).float()
    return (torch.randn(size, 3, generator=rng), ids, [torch.arange(size)] * 3), label


def configs():
    return [
        EmbeddingBagConfig(name="ta", embedding_dim=DIM, num_embeddings=3000, feature_names=["a1", "a2"]),
        EmbeddingBagConfig(name="tb", embedding_dim=DIM, num_embeddings=20, feature_names=["b"]),
        EmbeddingBagConfig(
            name="tc", embedding_dim=DIM, num_embeddings=5000, feature_names=["c"], pooling=PoolingType.MEAN
        ),
    ]


def kjt(size=128, seed=0, weighted=False):
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (4 * size,), generator=rng)
    parts = zip((3000, 3000, 20, 5000), lengths.view(4, size).sum(1).tolist(), strict=True)
    values = torch.cat([torch.randint(0, n, (count,), generator=rng) for n, count in parts])
    weights = torch.rand(len(values), generator=rng) if weighted else None
    return KeyedJaggedTensor(["a1", "a2", "b", "c"], values, weights, lengths=lengths)


def train(model, inputs, label, steps=40):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        logit = model(*inputs).reshape(-1)
        loss = nn.functional.binary_cross_entropy_with_logits(logit, label)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def torchrec_model(kind):
    torch.manual_seed(0)
    extra = {"dcn_num_layers": 2, "dcn_low_rank_dim": 4} if kind is DLRM_DCN else {}
    return kind(
        embedding_bag_collection=EmbeddingBagCollection(configs()),
        dense_in_features=3,
        dense_arch_layer_sizes=[16, DIM],
        over_arch_layer_sizes=[16, 1],
        **extra,
    )


@pytest.mark.parametrize("method", ["hash", "unified", "cafe"])
@pytest.mark.parametrize("kind", [DLRM, DLRM_DCN])
def test_torchrecs_models_train_at_a_tenth_of_the_bytes(kind, method):
    """One line, nothing else of the model touched: forward, optimizer construction, learning."""
    model = torchrec_model(kind)
    report = compress(model, method, "10%")
    assert report.replaced == [
        f"sparse_arch.embedding_bag_collection.embedding_bags.{name}" for name in ("ta", "tc")
    ]
    assert list(report.left.values()) == ["20 rows"]
    assert report.full_bytes == 4 * DIM * 8000
    assert 0.9 * report.full_bytes < 10 * report.serve_bytes <= report.full_bytes
    parameters = [p for n, p in model.named_parameters() if n.endswith("table.rows.weight")]
    assert 4 * sum(p.numel() for p in parameters) <= report.full_bytes // 10
    inputs, label = (torch.randn(128, 3), kjt()), (torch.rand(128) < 0.5).float()
    nn.functional.binary_cross_entropy_with_logits(model(*inputs).squeeze(1), label).backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in parameters)
    losses = train(model, inputs, label)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sum_only", [False, True])
def test_a_collection_answers_as_before_where_weights_are_kept(weighted, sum_only):
    """Two features on one table, sum and mean, empty bags, weights: all of it is the collection's own."""
    tables = [c for c in configs() if not (weighted or sum_only) or c.pooling is PoolingType.SUM]
    holder = nn.ModuleDict({"ebc": EmbeddingBagCollection(tables, is_weighted=weighted)})
    batch = kjt(weighted=weighted)
    before = holder["ebc"](batch)
    report = compress(holder, "full", "100%")
    after = holder["ebc"](batch)
    assert report.kept_weights == report.replaced
    assert after.keys() == before.keys()
    torch.testing.assert_close(after.values(), before.values())


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 7])
@pytest.mark.parametrize("last", [False, True])
def test_bags_are_called_as_torchs_are(mode, padding, last):
    """1-D with offsets, with the last one or without, 2-D, weights, padding, empty bags; gradients too."""
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(1000, DIM, mode=mode, padding_idx=padding, include_last_offset=last)
    holder = nn.Sequential(copy.deepcopy(bag))
    compress(holder, "full", "100%")
    other = holder[0]
    assert (other.num_embeddings, other.embedding_dim, other.mode) == (1000, DIM, mode)
    ids = torch.tensor([5, 7, 7, 999, 0, 7, 5])
    offsets = torch.tensor([0, 3, 3, 6] + ([7] if last else []))
    calls = [((ids, offsets), {}), ((ids.view(1, 7).repeat(3, 1),), {}), ((ids.int(), offsets.int()), {})]
    calls += [((), {"input": ids, "offsets": offsets})]
    if mode == "sum":
        calls += [((ids, offsets, torch.rand(7)), {}), ((ids.view(1, 7), None, torch.rand(1, 7)), {})]
    for args, kwargs in calls:
        bag.zero_grad()
        other.zero_grad()
        one, two = bag(*args, **kwargs), other(*args, **kwargs)
        torch.testing.assert_close(two, one)
        one.square().sum().backward()
        two.square().sum().backward()
        torch.testing.assert_close(other.table.rows.weight.grad, bag.weight.grad)
    for wrong in ((ids,), (ids.view(1, 7), offsets)):
        with pytest.raises(ValueError, match="offsets"):
            other(*wrong)


@pytest.mark.parametrize("padding", [None, 7])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 4), (0,)])
def test_embeddings_are_called_as_torchs_are(padding, shape):
    """Ids of any shape; the padding row is what it was, and is not trained."""
    embedding = nn.Embedding(1000, DIM, padding_idx=padding)
    with torch.no_grad():
        embedding.weight[7] = 3.0
    holder = nn.Sequential(copy.deepcopy(embedding))
    compress(holder, "full", "100%")
    ids = torch.randint(5, 10, shape)
    one, two = embedding(ids), holder(ids)
    torch.testing.assert_close(two, one)
    one.square().sum().backward()
    two.square().sum().backward()
    torch.testing.assert_close(holder[0].table.rows.weight.grad, embedding.weight.grad)


@pytest.mark.parametrize("method", ["hash", "unified"])
def test_padding_stays_zero_under_any_method(method):
    """A compressed row would not be zero, and sequences would be summed with it."""
    holder = nn.Sequential(nn.Embedding(2000, DIM, padding_idx=0))
    compress(holder, method, "10%")
    assert float(holder(torch.zeros(3, dtype=torch.int64)).detach().abs().max()) == 0.0


@pytest.mark.parametrize("method", ["hash", "unified", "cafe", "robe"])
def test_a_plain_model_trains_and_its_state_goes_round(method):
    """`state_dict` into a file and back, deepcopy, pickle: what training code does all day."""
    torch.manual_seed(0)
    model, fresh = PlainDLRM(), PlainDLRM()
    for one in (model, fresh):
        compress(one, method, "20%")
    inputs, label = plain_batch()
    losses = train(model, inputs, label)
    assert losses[-1] < 0.5 * losses[0]
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert fresh.load_state_dict(torch.load(file, weights_only=True)).missing_keys == []
    with torch.no_grad():
        expected = model.eval()(*inputs)
        for one in (fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(one.eval()(*inputs), expected)
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()})
    assert sum("rows.weight" in key for key in model.state_dict()) <= 1


def test_a_deep_copy_has_tables_of_its_own():
    """Drop-ins that only refer to the table must refer to the copy's."""
    model = PlainDLRM()
    compress(model, "hash", "20%")
    twin = copy.deepcopy(model)
    assert twin.bags[2].table is twin.bags[0].table
    assert twin.bags[2].table is not model.bags[2].table


def test_features_share_one_table():
    """unified is one table for all features; one per module would be another method."""
    model = PlainDLRM()
    report = compress(model, "unified", "20%")
    assert [f.name for f in report.tables[0].features] == ["bags.0", "bags.2"]
    ids = torch.arange(20)
    with torch.no_grad():
        one, other = (model.bags[k](ids, ids) for k in (0, 2))
    assert not torch.equal(one, other)


def test_projections_are_applied_per_feature():
    """Methods with a map per feature put it after pooling: a bag is the sum of its ids' projected vectors."""
    model = PlainDLRM()
    report = compress(model, "unified", "40%", options={"project": True})
    with torch.no_grad():
        report.tables[0].projection.copy_(torch.randn_like(report.tables[0].projection))
    ids = torch.tensor([3, 4, 3])
    bag = model.bags[2](ids, torch.tensor([0]))
    looked_up = report.tables[0](ids, torch.ones(3, dtype=torch.int64)).sum(0)
    torch.testing.assert_close(bag[0], looked_up @ report.tables[0].projection[1])


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(2000, DIM)
        self.tower = nn.Sequential(self.item, nn.Linear(DIM, 1))
        self.by_name = nn.ModuleDict({"x": self.item, "y": nn.Embedding(3000, 4)})
        self.twin = nn.Embedding(2000, DIM)
        self.twin.weight = self.item.weight


def test_modules_and_weights_that_are_shared_stay_shared():
    """One module under three names is replaced once; two modules over one weight read one feature."""
    model = Shared()
    report = compress(model, "full", "100%")
    assert model.tower[0] is model.item is model.by_name["x"]
    assert report.full_bytes == 4 * (2000 * DIM + 3000 * 4)
    assert [len(table.features) for table in report.tables] == [1, 1]
    ids = torch.tensor([1, 1999])
    assert torch.equal(model.twin(ids), model.item(ids))
    model.twin(ids).sum().backward()
    assert float(model.item.table.rows.weight.grad.sum()) == 2 * DIM


def test_what_cannot_be_replaced_is_left_and_named():
    """A weight tied to an output layer, a frozen one, a subclass, a skipped one."""

    class Own(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids + 1)

    model = nn.ModuleDict({name: nn.Embedding(2000, DIM) for name in ("tied", "frozen", "skipped", "good")})
    model["out"] = nn.Linear(DIM, 2000)
    model["out"].weight = model["tied"].weight
    model["frozen"].weight.requires_grad = False
    model["own"] = Own(2000, DIM)
    report = compress(model, "hash", "10%", skip=["skipped"])
    assert report.replaced == ["good"]
    assert sorted(report.left) == ["frozen", "skipped", "tied"]
    assert type(model["own"]) is Own
    assert "left as it is: tied (its weight is used outside" in str(report)


def test_sparse_modules_are_named():
    """Their SparseAdam would fail at the first step, far from here."""
    model = PlainDLRM(sparse=True)
    report = compress(model, "hash", "10%")
    assert report.now_dense == ["bags.0", "bags.2"]
    inputs, label = plain_batch()
    nn.functional.binary_cross_entropy_with_logits(model(*inputs), label).backward()
    assert not model.bags[0].table.rows.weight.grad.is_sparse


def test_values_start_as_large_as_the_model_had_them():
    """A model tuned to vectors of deviation 1 or 0.01 goes on with those (methods.md §0.3)."""
    model = nn.Sequential(nn.Embedding(20_000, DIM))
    nn.init.normal_(model[0].weight, std=0.03)
    compress(model, "hash", "10%")
    assert float(model(torch.arange(20_000)).detach().std()) == pytest.approx(0.03, rel=0.05)


@pytest.mark.parametrize("wrong", [-1, 3000, 2**40])
def test_an_id_outside_is_an_index_error_as_before(wrong):
    """A hash would read some row without a word."""
    model = PlainDLRM()
    compress(model, "hash", "10%")
    with pytest.raises(IndexError, match=rf"id {wrong} of embedding 'bags.0' is outside 0 … 2999"):
        model.bags[0](torch.tensor([5, wrong]), torch.tensor([0]))


def test_more_stages_are_named():
    """The model's own training code must walk through them."""
    model = PlainDLRM()
    report = compress(model, "dedup", 4 * DIM * 8000, ids_by_frequency=True)
    assert any("report.tables[0].set_stage(" in line for line in report.todo)
    assert all(f"to do: {line}" in str(report) for line in report.todo)
    assert compress(PlainDLRM(), "hash", "10%").todo == []


def test_frequency_methods_ask_first():
    """Ids of a foreign model come in any order."""
    from slimtab.tables.base import methods

    asking = [name for name, kind in methods().items() if kind.by_frequency]
    for name in asking:
        with pytest.raises(SlimtabError, match="ids_by_frequency=True"):
            compress(PlainDLRM(), name, "50%")


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (nn.Linear(3, 4), {}, "no embedding of 1000 rows"),
        (nn.Sequential(nn.EmbeddingBag(2000, 4, mode="max")), {}, "'0' takes the maximum"),
        (nn.Sequential(nn.Embedding(2000, 4, max_norm=1.0)), {}, "'0' has max_norm"),
        (nn.Embedding(2000, 4), {}, "the model itself is an embedding"),
        (nn.Sequential(nn.Embedding(2000, 4)), {"method": "hasj"}, "no method 'hasj'"),
        (nn.Sequential(nn.Embedding(2000, 4)), {"budget": "1B"}, "hash cannot fit 1 B"),
        (nn.Sequential(nn.Embedding(2000, 4)), {"skip": ["one"]}, "no module 'one'"),
        (nn.Sequential(nn.Embedding(2000, 4)), {"options": {"probe": 2}}, "no option 'probe'"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(module, arguments, message):
    """A half-replaced model would be worse than none."""
    before = [type(part) for part in module.modules()]
    with pytest.raises(SlimtabError, match=message):
        compress(module, **{"method": "hash", **arguments})
    assert [type(part) for part in module.modules()] == before


def test_a_model_of_torch_rechub():
    """Another library's DeepFM, with features that share an embedding and a padded sequence."""
    pytest.importorskip("torch_rechub")
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DeepFM

    torch.manual_seed(0)
    features = [
        SparseFeature("user", 4000, DIM),
        SparseFeature("item", 3000, DIM),
        SparseFeature("day", 7, DIM),
        SequenceFeature("history", 3000, DIM, pooling="mean", shared_with="item", padding_idx=0),
    ]
    model = DeepFM(features, features, {"dims": [16], "dropout": 0.0})
    report = compress(model, "unified", "10%")
    assert report.replaced == ["embedding.embed_dict.user", "embedding.embed_dict.item"]
    rng = torch.Generator().manual_seed(0)
    batch = {
        "user": torch.randint(0, 4000, (256,), generator=rng),
        "item": torch.randint(0, 3000, (256,), generator=rng),
        "day": torch.randint(0, 7, (256,), generator=rng),
        "history": torch.randint(0, 3000, (256, 5), generator=rng),
    }
    label = (batch["user"] % 2).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy(model(batch), label)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
