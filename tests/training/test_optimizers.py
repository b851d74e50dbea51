"""One handle on dense parameters and fused rows."""

import dataclasses
import math

import pytest
import torch

from slimtab.config import OptimizerSettings
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.tt import TT, TTConfig
from slimtab.training.optimizers import Optimizers, fused_rows, train_bytes

SETTINGS = OptimizerSettings(rows_lr=0.05, rows_decay=0.5, lr=0.01, weight_decay=0.1)


class Small(torch.nn.Module):
    """A table and a network on it."""

    def __init__(self, settings=SETTINGS, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.rows = fused_rows(settings, steps_per_epoch=10)(20, 4, 0.1)
        self.network = torch.nn.Linear(4, 1)

    def forward(self, address):
        return self.network(self.rows(address)).squeeze(1)


def train(model, optimizers, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        address = torch.randint(0, 20, (8,), generator=generator)
        optimizers.zero_grad()
        (model(address) - 1).square().mean().backward()
        optimizers.step()


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("rows", ["adam", "rowwise_adagrad"])
def test_both_kinds_of_weights_move(rows):
    """A table forgotten by the optimizer would stay at its start values."""
    model = Small(dataclasses.replace(SETTINGS, rows=rows))
    before = state(model)
    train(model, Optimizers(model, SETTINGS), 5)
    for name in ("rows.packed", "network.weight", "network.bias"):
        assert not torch.equal(model.state_dict()[name], before[name]), name


def test_dense_parameters_follow_torchs_adamw():
    """The dense part is torch's own AdamW and nothing else."""
    model, other = Small(), torch.nn.Linear(4, 1)
    other.load_state_dict(model.network.state_dict())
    ours = Optimizers(model, SETTINGS)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.1)
    for number in range(20):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
        for network, optimizer in ((model.network, ours), (other, theirs)):
            optimizer.zero_grad()
            (network(x) - 1).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(model.network.weight, other.weight)


@pytest.mark.parametrize("steps_per_epoch", [1, 2, 7, 1000])
@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0, 8.0])
def test_decay_means_the_same_for_any_number_of_steps(steps_per_epoch, decay):
    """config: over one epoch a row that nothing touches shrinks to e^(−rows_decay) of itself."""
    rows = fused_rows(OptimizerSettings(rows_decay=decay), steps_per_epoch)(5, 3, 1.0)
    start = rows.values().clone()
    for _ in range(steps_per_epoch):
        rows.zero_grad()
        rows.step()
    torch.testing.assert_close(rows.values(), start * math.exp(-decay), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 100])
def test_a_vector_that_is_a_product_shrinks_as_a_row_does(steps_per_epoch):
    """Three cores: with the whole decay each, vectors would lose it three times over."""
    settings = OptimizerSettings(rows_decay=2.0)
    features = [Feature("large", 1000), Feature("small", 3)]
    table = TT(TTConfig(rank=5), features, 12, fused_rows(settings, steps_per_epoch), 0.1)
    ids, slot = torch.arange(3).repeat(2), torch.arange(2).repeat_interleave(3)
    start = table(ids, slot).detach().clone()
    optimizers = Optimizers(table, settings, steps_per_epoch)
    for _ in range(steps_per_epoch):
        optimizers.zero_grad()
        (0.0 * table(ids, slot)).sum().backward()
        optimizers.step()
    torch.testing.assert_close(table(ids, slot), start * math.exp(-2.0), rtol=1e-3, atol=1e-7)


def test_an_epoch_without_steps_is_one_line():
    """An empty training split."""
    with pytest.raises(SlimtabError, match="no rows to train on"):
        fused_rows(SETTINGS, 0)


def test_all_rates_are_scaled_and_stay_what_they_are():
    """Rates fall at the end of a stage; a factor of the table's own stays."""
    model = Small()
    optimizers = Optimizers(model, SETTINGS)
    optimizers.scale_lr(0.5, 0.1)
    for scale in (1.0, 0.1, 0.2):
        optimizers.use(scale)
        assert model.rows.lr == pytest.approx(scale * 0.005)
        assert optimizers.dense.param_groups[0]["lr"] == pytest.approx(scale * 0.005)


def test_round_trip_continues_identically():
    """Moments and steps: what a checkpoint of the optimizer must hold."""
    model = Small()
    optimizers = Optimizers(model, SETTINGS)
    train(model, optimizers, 7)
    weights, tensors = state(model), dict(optimizers.tensors())
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}

    other = Small(seed=5)
    other.load_state_dict(weights)
    again = Optimizers(other, SETTINGS)
    again.load(tensors)
    train(model, optimizers, 7, seed=1)
    train(other, again, 7, seed=1)
    assert same(state(model), state(other))


def test_a_checkpoint_before_the_first_step():
    """AdamW has no state yet; loading that is no error."""
    optimizers = Optimizers(Small(), SETTINGS)
    assert optimizers.tensors() == {}
    optimizers.load({})


def test_zero_grad_forgets_rows_too():
    """A lookup left over from a failed step may not be trained on."""
    model = Small()
    optimizers = Optimizers(model, SETTINGS)
    model(torch.tensor([1])).sum().backward()
    optimizers.zero_grad()
    assert model.rows.grad_norm() is None
    assert model.network.weight.grad is None


@pytest.mark.parametrize(("rows", "floats"), [("adam", 20 * 12), ("rowwise_adagrad", 20 * 5)])
def test_train_bytes(rows, floats):
    """Weights and optimizer state of both parts: three floats for each dense parameter."""
    model = Small(dataclasses.replace(SETTINGS, rows=rows))
    assert train_bytes(model) == 4 * floats + 4 * 3 * 5
    assert train_bytes(model.rows) == 4 * floats  # `slimtab plan` sizes tables alone
