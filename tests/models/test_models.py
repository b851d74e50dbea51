"""The three networks against slow references, and on a signal that only each one's own part can see."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from slimtab.batch import Batch
from slimtab.collection import TableCollection
from slimtab.errors import SlimtabError
from slimtab.models.base import build_model, mlp
from slimtab.models.deepfm import pairwise_products
from slimtab.testing import fake_batch, fake_schema
from slimtab.training.metrics import score

DIM = 8
SCHEMA = fake_schema([10, 300, 7], multi_hot=[50])
SMALL = {
    "deepfm": {"mlp": (16, 8)},
    "dlrm": {"bottom": (16,), "top": (16, 8)},
    "dcn": {"cross": 2, "mlp": (16, 8)},
}
VARIANTS = [
    *SMALL.items(),
    ("dcn", {"cross": 2, "rank": 3, "mlp": (16,)}),
    ("dcn", {"cross": 1, "mlp": (16,), "dropout": 0.2}),
    ("dcn", {"cross": 0, "mlp": ()}),
    ("deepfm", {"mlp": ()}),
    ("dlrm", {"bottom": (), "top": ()}),
]


def build(name, options=None, schema=SCHEMA, method="full", budget=None, init_std=0.3, table_options=None):
    torch.manual_seed(0)
    tables = TableCollection.build(
        schema.features, DIM, method, budget, options=table_options, init_std=init_std
    )
    return build_model(name, tables, len(schema.numerics), SMALL[name] if options is None else options)


def numpy_relu_mlp(sequential, x):
    """Linear layers and ReLUs, by hand."""
    for layer in sequential:
        if isinstance(layer, torch.nn.Linear):
            x = x @ layer.weight.detach().double().numpy().T
            if layer.bias is not None:
                x = x + layer.bias.detach().double().numpy()
        elif isinstance(layer, torch.nn.ReLU):
            x = np.maximum(x, 0)
    return x


def inputs(model, schema=SCHEMA, size=11):
    batch = fake_batch(schema, size, 0)
    with torch.no_grad():
        vectors = model.tables.embed(batch).double().numpy()
        logits = model.eval()(batch).double().numpy()
    return batch.dense.double().numpy(), vectors, logits


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("method", ["full", "hash", "unified"])
def test_one_logit_per_row(name, options, method):
    """Any model over any method."""
    model = build(name, options, method=method, budget=None if method == "full" else "60%")
    for size in (1, 33):
        assert model(fake_batch(SCHEMA, size, 0)).shape == (size,)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_without_numeric_columns(name, options):
    """Avazu and sports have none."""
    schema = fake_schema([10, 300, 7], numerics=0)
    assert build(name, options, schema)(fake_batch(schema, 5, 0)).shape == (5,)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("numerics", [0, 3])
def test_gradient_reaches_every_parameter(name, options, numerics):
    """A branch that is not joined to the output would never train, and nobody would notice."""
    schema = fake_schema([10, 300, 7], numerics=numerics, multi_hot=[50])
    model = build(name, options, schema, "unified", "80%", table_options={"project": True})
    model(fake_batch(schema, 200, 0)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert float(parameter.grad.abs().sum()) > 0, parameter_name


def test_pairwise_products_are_a_double_loop():
    """The one-pass identity of Rendle, ICDM 2010."""
    vectors = torch.randn(7, 5, 4)
    expected = np.zeros(7)
    for i in range(5):
        for j in range(i + 1, 5):
            expected += (vectors[:, i] * vectors[:, j]).sum(dim=1).numpy()
    np.testing.assert_allclose(pairwise_products(vectors).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_deepfm_by_hand():
    """First-order weights are coordinate 0, the factorisation machine has the others, the network all."""
    model = build("deepfm")
    dense, vectors, logits = inputs(model)
    expected = vectors[:, :, 0].sum(axis=1) + (dense @ model.linear.weight.detach().double().numpy().T)[:, 0]
    for i in range(vectors.shape[1]):
        for j in range(i):
            expected += (vectors[:, i, 1:] * vectors[:, j, 1:]).sum(axis=1)
    deep = numpy_relu_mlp(model.deep, np.concatenate([vectors.reshape(11, -1), dense], axis=1))
    expected += numpy_relu_mlp([model.output], deep)[:, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("numerics", [0, 3])
def test_dlrm_by_hand(numerics):
    """All pairs of vectors, numeric columns being one more; the bottom's output stands beside them."""
    schema = fake_schema([10, 300, 7], numerics=numerics, multi_hot=[50])
    model = build("dlrm", schema=schema)
    dense, vectors, logits = inputs(model, schema)
    rows = []
    for row in range(11):
        points = list(vectors[row])
        beside = np.concatenate(points)
        if numerics:
            beside = numpy_relu_mlp(model.bottom, dense[row])
            points = [beside, *points]
        products = [points[i] @ points[j] for i in range(len(points)) for j in range(i + 1, len(points))]
        rows.append(np.concatenate([beside, products]))
    expected = numpy_relu_mlp([model.output], numpy_relu_mlp(model.top, np.array(rows)))[:, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [None, 3])
def test_dcn_by_hand(rank):
    """x ← x₀ ⊙ (W x + b) + x, layer by layer."""
    model = build("dcn", {"cross": 3, "rank": rank, "mlp": (16, 8)})
    dense, vectors, logits = inputs(model)
    first = np.concatenate([vectors.reshape(11, -1), dense], axis=1)
    x = first
    for layer in model.cross:
        x = first * numpy_relu_mlp([layer.map] if rank is None else layer.map, x) + x
    joined = np.concatenate([x, numpy_relu_mlp(model.deep, first)], axis=1)
    expected = numpy_relu_mlp([model.output], joined)[:, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def planted(size, seed):
    """Rows whose label follows a product of two features, a third one alone, and a number."""
    schema = fake_schema([20, 20, 50], numerics=2)
    batch = fake_batch(schema, size, seed)
    signs = torch.from_numpy(np.random.default_rng(99).choice([-1.0, 1.0], (3, 50))).float()
    a, b, c = (signs[column][batch.ids[:, column]] for column in range(3))
    logit = 2 * a * b + c + batch.dense[:, 0]
    label = (torch.rand(size, generator=torch.Generator().manual_seed(seed)) < torch.sigmoid(logit)).float()
    return schema, Batch(batch.dense, batch.keys, batch.ids, label), logit


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("method", ["full", "unified"])
def test_learns_a_planted_signal(name, method):
    """Near the best any model can do on unseen rows; first order alone would reach about 0.70."""
    schema, train, _ = planted(20_000, 1)
    _, test, true_logit = planted(5000, 2)
    model = build(name, None, schema, method, None, init_std=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for number in range(160):
        part = slice(500 * (number % 40), 500 * (number % 40 + 1))
        batch = Batch(train.dense[part], train.keys, train.ids[part], train.label[part])
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(model(batch), batch.label).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = score(test.label.double().numpy(), torch.sigmoid(model(test).double()).numpy())
    best = score(test.label.double().numpy(), torch.sigmoid(true_logit.double()).numpy())
    assert best.auc > 0.85
    assert found.auc > best.auc - 0.03


def test_dropout_only_while_training():
    """Evaluation is deterministic; training is not."""
    model = build("deepfm", {"mlp": (64,), "dropout": 0.5})
    batch = fake_batch(SCHEMA, 50, 0)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_mlp_layers():
    """Each linear layer is followed by ReLU, and by dropout where there is any."""
    kinds = [type(layer).__name__ for layer in mlp((4, 3, 2), 0.1)]
    assert kinds == ["Linear", "ReLU", "Dropout"] * 2
    assert [type(layer).__name__ for layer in mlp((4, 3))] == ["Linear", "ReLU"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deepfn", {}, "no model 'deepfn'; did you mean 'deepfm'"),
        ("deepfm", {"mpl": (3,)}, "model deepfm has no option 'mpl'; did you mean 'mlp'"),
        ("dcn", {"rnk": 3}, "model dcn has no option 'rnk'; did you mean 'rank'"),
        ("deepfm", {"mlp": 400}, "mlp"),
        ("deepfm", {"mlp": (0,)}, "mlp"),
        ("deepfm", {"mlp": "400"}, "mlp"),
        ("deepfm", {"dropout": 1.5}, "dropout"),
        ("deepfm", {"dropout": "much"}, "dropout"),
        ("dcn", {"cross": -1}, "cross"),
        ("dcn", {"rank": 0}, "rank"),
        ("dlrm", {"top": [8, 1.5]}, "top"),
    ],
)
def test_wrong_names_and_options_are_one_line(name, options, message):
    """Model options are free-form in the config, so they are checked here."""
    with pytest.raises(SlimtabError, match=message) as caught:
        build(name, options)
    assert "\n" not in str(caught.value)


def test_lists_from_yaml_serve_as_tuples():
    """YAML and JSON know lists only."""
    assert build("deepfm", {"mlp": [16, 8]})(fake_batch(SCHEMA, 3, 0)).shape == (3,)


def test_only_the_tables_grow_with_the_ids():
    """'Serving bytes' would mean little if the network held ids too."""

    def dense_floats(schema):
        model = build("deepfm", schema=schema)
        return sum(p.numel() for n, p in model.named_parameters() if not n.startswith("tables."))

    assert dense_floats(fake_schema([10, 10])) == dense_floats(fake_schema([10, 9999]))
