"""DHE: hashes into networks, BatchNorm per feature over the distinct ids of a batch, and its folding."""

import numpy as np
import pytest
import torch
from torch import nn

from slimtab.errors import SlimtabError
from slimtab.plan import CRITEO_KAGGLE
from slimtab.schema import Feature
from slimtab.tables.dhe import DHE, DHEConfig, largest_width
from slimtab.tables.hashing import make_salts
from slimtab.tables.rows.plain import PlainRows

AVAZU = (
    240, 7, 7, 4737, 7745, 26, 8552, 559, 36, 2686408, 6729486,
    8251, 5, 4, 2626, 8, 9, 435, 4, 68, 172, 60,
)  # fmt: skip
CRITEO_2CORE = (
    1460, 570, 1545892, 668221, 305, 24, 12399, 633, 3, 74829, 5557, 1518203, 3194,
    27, 13883, 1231446, 10, 5310, 2150, 4, 1437677, 18, 15, 157462, 103, 99816,
)  # fmt: skip
FEATURES = [Feature("a", 3), Feature("b", 4000), Feature("c", 6000)]
MASK = 2**64 - 1


def build(width=12, hashes=20, layers=3, features=FEATURES, dim=8, std=0.1):
    torch.manual_seed(0)
    return DHE(DHEConfig(width, hashes, layers), features, dim, PlainRows, std)


def slots(ids, slot):
    return torch.full_like(ids, slot)


def mix(x):
    """SplitMix64's finalizer on Python's own integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def encode(name, x, k):
    """The hashes of an id by their definition: the signed upper half of a · mix(x) + b."""
    mixed, seed = mix(x ^ int(make_salts([name], 1)[0, 0]) & MASK), int(make_salts(["dhe"], 1)[0, 0])
    values = []
    for j in range(k):
        a, b = mix((seed + j) & MASK) | 1, mix((seed + k + j) & MASK)
        upper = ((a * mixed + b) & MASK) >> 32
        values.append((upper - 2**32 if upper >= 2**31 else upper) / 2**31)
    return values


def network_of(table, number):
    """The same network from torch's own layers."""
    layers = []
    for layer, matrix in enumerate(table.matrices[:-1]):
        linear, norm = nn.Linear(*matrix.shape[1:], bias=False), nn.BatchNorm1d(matrix.shape[2])
        linear.weight.data = matrix[number].detach().T.clone()
        norm.weight.data, norm.bias.data = table.scale[layer, number].data, table.shift[layer, number].data
        norm.running_mean, norm.running_var = (
            table.mean[layer, number].clone(),
            table.variance[layer, number].clone(),
        )
        layers += [linear, norm, nn.Mish()]
    last = nn.Linear(*table.matrices[-1].shape[1:])
    last.weight.data, last.bias.data = (
        table.matrices[-1][number].detach().T.clone(),
        table.last_bias[number].data,
    )
    return nn.Sequential(*layers, last)


def shaken(**options):
    """A table whose BatchNorm is not at its start."""
    table = build(**options)
    with torch.no_grad():
        table.scale.normal_(1.0, 0.3)
        table.shift.normal_(0.0, 0.3)
    return table


def test_hashes_are_what_their_definition_says():
    """Exact 64-bit arithmetic, also for ids beyond 2^31: int32 would leave the range [−1, 1]."""
    table = build()
    ids = torch.tensor([0, 1, 3999, 2**24 + 1, 2**31 + 7, 2**62 + 3])
    for number, name in enumerate("bc"):
        got = table.encoder(table.encoder.mixed(ids, torch.full_like(ids, number)))
        expected = np.array([encode(name, int(x), 20) for x in ids], dtype=np.float32)
        np.testing.assert_array_equal(got.numpy(), expected)


def test_hashes_are_uniform_and_independent():
    """In [−1, 1], variance 1/3, and no two hashes, features or neighbouring ids alike."""
    table, ids = build(hashes=64), torch.arange(20_000)
    b, c = (table.encoder(table.encoder.mixed(ids, torch.full_like(ids, n))) for n in (0, 1))
    assert -1 <= float(b.min()) < -0.999
    assert 0.999 < float(b.max()) <= 1
    assert float(b.mean(dim=0).abs().max()) < 0.02
    assert torch.allclose(b.var(dim=0), torch.tensor(1 / 3), atol=0.01)
    columns = torch.cat([b, c, b.roll(1, dims=0)], dim=1).T
    correlation = torch.corrcoef(columns) - torch.eye(192)
    assert float(correlation.abs().max()) < 0.04
    assert len(b.unique(dim=0)) == 20_000


@pytest.mark.parametrize("layers", [1, 3, 5])
@pytest.mark.parametrize("training", [True, False])
def test_equals_torch_layers_feature_by_feature(layers, training):
    """Padding to the longest feature must leave no trace in means, variances or running statistics."""
    table = shaken(layers=layers).train(training)
    one, other = torch.randperm(4000)[:37], torch.randperm(6000)[:90]
    ids, slot = torch.cat([one, other, torch.arange(3)]), torch.tensor([1] * 37 + [2] * 90 + [0] * 3)
    order = torch.randperm(len(ids))
    expected, statistics = [], []
    for number, (name, mine) in enumerate([("b", one), ("c", other)]):
        network = network_of(table, number).train(training)
        expected.append(network(torch.tensor([encode(name, int(x), 20) for x in mine])))
        statistics.append([(m.running_mean, m.running_var) for m in network if isinstance(m, nn.BatchNorm1d)])
    expected.append(table.rows.values())
    got = table(ids[order], slot[order])
    torch.testing.assert_close(got, torch.cat(expected)[order], rtol=1e-4, atol=1e-5)
    for number, of_network in enumerate(statistics):
        for layer, (mean, variance) in enumerate(of_network):
            torch.testing.assert_close(table.mean[layer, number], mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(table.variance[layer, number], variance, rtol=1e-4, atol=1e-5)


def test_gradients_equal_those_of_torch_layers():
    """Through batch statistics too."""
    table = shaken().train()
    ids = torch.randperm(6000)[:60]
    weight = torch.randn(60, 8)
    (table(ids, slots(ids, 2)) * weight).sum().backward()
    network = network_of(shaken(), 1).train()
    (network(torch.tensor([encode("c", int(x), 20) for x in ids])) * weight).sum().backward()
    linears = [module for module in network if isinstance(module, nn.Linear)]
    for matrix, linear in zip(table.matrices, linears, strict=True):
        torch.testing.assert_close(matrix.grad[1].T, linear.weight.grad, rtol=1e-3, atol=1e-4)
        assert float(matrix.grad[0].abs().max()) == 0
    norms = [module for module in network if isinstance(module, nn.BatchNorm1d)]
    for layer, norm in enumerate(norms):
        torch.testing.assert_close(table.scale.grad[layer, 1], norm.weight.grad, rtol=1e-3, atol=1e-4)


def test_a_feature_with_one_id_in_the_batch_uses_running_statistics():
    """One id has no variance: batch statistics would give every id the same vector, or an error."""
    table = shaken().train()
    before = table.mean.clone(), table.variance.clone()
    ids = torch.tensor([7])
    alone = table(ids, slots(ids, 1)).detach()
    assert torch.equal(table.mean, before[0])
    assert torch.equal(table.variance, before[1])
    torch.testing.assert_close(alone, table.eval()(ids, slots(ids, 1)), rtol=1e-4, atol=1e-5)


def test_features_absent_from_a_batch_keep_their_statistics():
    """Nothing was seen of them; NaN would spread from an empty mean."""
    table = build().train()
    before, ids = table.mean[:, 0].clone(), torch.arange(50)
    table(ids, slots(ids, 2)).sum().backward()
    assert torch.equal(table.mean[:, 0], before)
    assert not torch.equal(table.mean[:, 1], build().mean[:, 1])
    assert all(bool(p.grad.isfinite().all()) for p in table.parameters() if p.grad is not None)


def test_frozen_folds_batchnorm():
    """No statistics are shipped: weights, biases, 8 bytes per network, and 8 in all."""
    table = shaken()
    ids = torch.arange(500)
    table.train()(ids, slots(ids, 1))
    frozen = table.eval().freeze()
    for slot in (1, 2):
        torch.testing.assert_close(
            frozen(ids, slots(ids, slot)), table(ids, slots(ids, slot)), rtol=1e-4, atol=1e-5
        )
    floats = 21 * 12 + 2 * 13 * 12 + 13 * 8
    assert frozen.serve_bytes() == 2 * (4 * floats + 8) + 8 + 4 * 8 * 3
    assert table.bytes_by_feature() == [4 * 8 * 3, 4 * floats + 16, 4 * floats + 8]


@pytest.mark.parametrize(("width", "layers"), [(2, 2), (12, 3), (60, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_start_values(width, layers, training):
    """The asked deviation from the first step on, in training and in eval, around zero."""
    table = build(width, layers=layers, std=0.01).train(training)
    ids = torch.arange(4000)
    for slot in (1, 2):
        vectors = table(ids, slots(ids, slot)).detach()
        assert float(vectors.std()) == pytest.approx(0.01, rel=0.15)
        assert abs(float(vectors.mean())) < 0.002


def trained_floats(dim, hashes, width):
    """Floats of a network as the comparative study counts them: BatchNorm's scale and shift included."""
    return (hashes + 1) * width + 4 * width * (width + 1) + (dim + 1) * width + 10 * width


@pytest.mark.parametrize(
    ("sizes", "share", "width", "networks"),
    [
        *[(CRITEO_KAGGLE, *row) for row in [(0.5, 3626, 4), (0.2, 2096, 5), (0.1, 1372, 5)]],
        *[(CRITEO_KAGGLE, *row) for row in [(0.01, 271, 8), (0.001, 29, 14)]],
        *[(AVAZU, *row) for row in [(0.5, 2933, 2), (0.1, 1224, 2), (0.01, 241, 2), (0.001, 15, 7)]],
        *[(CRITEO_2CORE, *row) for row in [(0.5, 1425, 5), (0.1, 447, 7), (0.01, 60, 12), (0.001, 5, 17)]],
    ],
)
def test_known_widths(sizes, share, width, networks):
    """The derived settings of the comparative study (Zhang et al., VLDB 2024), by its count of floats.

    We count what is served: no BatchNorm, but salts, and the last layer's bias. That moves a width by one.
    """
    full = [16 * size for size in sizes]
    assert largest_width(full, int(share * sum(full)), lambda h: trained_floats(16, 1024, h)) == width
    features = [Feature(f"C{number}", size) for number, size in enumerate(sizes)]
    config = DHEConfig.for_budget(features, 16, int(share * 4 * sum(full)))
    assert width - 1 <= config.width <= width + 2
    assert sum(not config.is_full(size, 16) for size in sizes) == networks


def test_small_features_and_large_budgets_stay_full():
    """A network larger than the table it replaces is no compression."""
    table = build(width=0)
    assert table.serve_bytes() == 4 * 8 * 10_003
    assert list(dict(table.named_parameters())) == ["rows.weight"]
    ids = torch.arange(3)
    assert torch.equal(build()(ids, slots(ids, 0)), build().rows.values())
    assert table.stats() == {"width": 0, "full_features": 1.0}
    assert build().stats() == {"width": 12, "full_features": 1 / 3}


def test_wrong_options_are_named():
    """One line that says what to do."""
    with pytest.raises(SlimtabError, match="set both to 1 or more"):
        DHEConfig.for_budget(FEATURES, 8, 100_000, layers=0)
