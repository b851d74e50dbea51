"""Integers with a fixed step: rounding, the optimizer, decay, and what they weigh."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from row_helpers import push

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import get_method
from slimtab.tables.fixed_point import FixedPointRows, Int8, Int8Config, Int16Config, RoundedRows
from slimtab.tables.rows.fused import FusedRows, FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.rows.quantised import round_stochastically


def make(num_rows=50, width=4, std=0.1, unit=0.01, dtype=torch.int8, **optimizer):
    torch.manual_seed(0)
    return FixedPointRows(num_rows, width, std, RowOptimizer(**optimizer), dtype, unit)


def test_rounding_is_unbiased():
    """A bias of a hundredth of a step, repeated every step, is a drift."""
    torch.manual_seed(0)
    for value in (-1.25, 0.0, 0.1, 0.5, 2.9):
        rounded = round_stochastically(torch.full((200_000,), value), torch.int8).double()
        assert float(rounded.mean()) == pytest.approx(value, abs=0.005)
        assert set(rounded.unique().tolist()) <= {np.floor(value), np.floor(value) + 1}


def test_coordinates_of_a_row_are_rounded_independently():
    """One noise per row would move all its coordinates together (a known bug of a public kernel)."""
    torch.manual_seed(0)
    rounded = round_stochastically(torch.full((50_000, 4), 0.5), torch.int8).double()
    correlation = np.corrcoef(rounded.numpy().T) - np.eye(4)
    assert np.abs(correlation).max() < 0.02


def test_values_beyond_the_range_are_clipped():
    """127 + 1 must not become −128."""
    assert round_stochastically(torch.tensor([1e6, -1e6, 127.9]), torch.int8).tolist() == [127, -128, 127]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad"])
def test_steps_equal_a_slow_reference(kind, dtype):
    """Dequantise, decay, move, round with the same noise; nothing else happens to any row."""
    lr, decay, unit, limits = 0.05, 0.2, 0.01, torch.iinfo(dtype)
    rows = make(6, 3, std=0.3, unit=unit, dtype=dtype, kind=kind, lr=lr, weight_decay=decay)
    numbers, size, scale = rows.numbers.double().numpy(), np.zeros(6), 1.0
    rng = np.random.default_rng(0)
    for t in range(1, 30):
        address = np.sort(rng.choice(6, 3, replace=False))
        grad = rng.normal(size=(3, 3))
        torch.manual_seed(t)
        push(rows, address, grad.astype(np.float32))
        torch.manual_seed(t)
        noise = torch.rand(3, 3).double().numpy()
        values = numbers[address] * unit * scale * (1 - lr * decay)
        if kind == "adam":
            size[address] = np.maximum(0.999 * size[address], np.sqrt((grad**2).mean(1)))
            rate = lr * (1 - 0.9) / (1 - 0.9**t) * np.sqrt((1 - 0.999**t) / (1 - 0.999))
            values -= rate * grad / size[address][:, None]
        else:
            size[address] += (grad**2).mean(1)
            values -= lr * grad / np.sqrt(size[address])[:, None]
        scale *= 1 - lr * decay
        numbers[address] = np.floor(values / (unit * scale) + noise).clip(limits.min, limits.max)
        # A float32 sum that lands on a whole number may round to the other side.
        assert np.abs(rows.numbers.double().numpy() - numbers).max() <= 1
        assert (rows.numbers.double().numpy() != numbers).mean() < 0.1
        numbers = rows.numbers.double().numpy()
    np.testing.assert_allclose(rows.values().numpy(), numbers * unit * scale, rtol=1e-5)


@pytest.mark.parametrize("before", [0, 500])
def test_the_first_move_of_a_row_is_as_long_as_adams(before):
    """Learning rates carry over from float rows, for rows first seen early and for those first seen late."""
    optimizer = RowOptimizer(lr=0.01)
    whole = make(10, 4, unit=1e-5, dtype=torch.int16, lr=0.01)
    fused = FusedRows(10, 4, 0.1, optimizer)
    moved = []
    for rows in (whole, fused):
        for _ in range(before):
            rows.step()
        start = rows.values()
        push(rows, [3], 0.5)
        moved.append((rows.values() - start)[3])
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=3e-5)
    assert float(moved[1].abs().min()) > 0.005


def test_moves_below_half_a_step_are_not_lost():
    """Rounded to the nearest, they would be: the table would stand still."""
    rows = make(2000, 4, std=0.0, unit=0.01, kind="rowwise_adagrad", lr=0.001)
    for _ in range(20):
        push(rows, list(range(2000)), 1.0)
    expected = -0.001 * sum(k**-0.5 for k in range(1, 21))
    assert float(rows.values().mean()) == pytest.approx(expected, rel=0.1)


def test_only_rows_of_the_batch_are_rounded():
    """Noise on every row at every step would drown rows that are seldom seen."""
    rows = make(50, lr=0.1, weight_decay=0.01)
    before = rows.numbers.clone()
    push(rows, [1, 2, 2], torch.randn(3, 4))
    changed = (rows.numbers != before).any(dim=1).nonzero().squeeze(1)
    assert changed.tolist() == [1, 2]


def test_every_row_decays_as_the_dense_rule_says():
    """Also rows that nothing touches, also over the foldings that widen the step again."""
    rows = make(4000, 8, std=0.5, unit=0.02, lr=0.1, weight_decay=0.5)
    before = rows.values()
    for t in range(60):
        if t % 7 == 0:
            push(rows, [0], 0.0)
        else:
            rows.step()
    keep = 0.95**60  # 0.046: folded in four times
    assert 0.5 <= float(rows.scale) <= 1.0
    slope = float((rows.values() * before).sum() / before.square().sum())
    assert slope == pytest.approx(keep, rel=0.02)
    assert float((rows.values() - keep * before).abs().max()) < 2.5 * 0.02


def test_a_step_of_the_learning_rate_schedule_changes_decay_from_then_on():
    """Pending decay is a product of what was, not steps times what is."""
    rows = make(100, std=0.3, lr=0.1, weight_decay=0.2)
    before = rows.values()
    rows.step()
    rows.lr = 0.01
    rows.step()
    torch.testing.assert_close(rows.values(), before * 0.98 * 0.998)


def test_lookups_of_one_step_add_their_gradients():
    """One-hot and multi-hot features look up separately, and may share rows."""
    one, other = (make(50, unit=1e-4, dtype=torch.int16, kind="rowwise_adagrad", lr=0.1) for _ in range(2))
    weight = torch.tensor([1.0, 2.0, -3.0, 4.0])
    torch.autograd.backward(
        (one(torch.tensor([5, 7])) * weight).sum() + (one(torch.tensor([7])) * weight).sum()
    )
    one.step()
    torch.autograd.backward((other(torch.tensor([5, 7, 7])) * weight).sum())
    other.step()
    torch.testing.assert_close(one.values(), other.values(), rtol=0, atol=2e-4)


def test_a_lookup_without_backward_changes_nothing():
    """A forward pass outside training, with gradients on, must not leave rows to be written later."""
    rows = make()
    before = rows.numbers.clone()
    rows(torch.tensor([1, 2]))
    rows.step()
    assert torch.equal(rows.numbers, before)


def test_rows_assigned_are_rows_read():
    """Within a step, and with a fresh optimizer."""
    rows = make(300, lr=0.1)
    push(rows, [0], 1.0)
    values = 0.2 * torch.randn(300, 4)
    rows.assign(values)
    assert float((rows.values() - values).abs().max()) <= 0.01
    assert float(rows.size.abs().sum()) == 0.0


def test_training_memory_is_below_a_float_table():
    """The point of it: integers and one float a row, and no float copy while it starts or folds."""
    program = (
        "import resource, torch\n"
        "from slimtab.tables.fixed_point import FixedPointRows\n"
        "from slimtab.tables.rows.optimizer import RowOptimizer\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "optimizer = RowOptimizer(lr=1.0, weight_decay=0.6)\n"
        "FixedPointRows(10, 16, 0.1, optimizer, torch.int8, 0.01)\n"
        "before = peak()\n"
        "rows = FixedPointRows(3_000_000, 16, 0.1, optimizer, torch.int8, 0.01)\n"
        "rows.step()\n"
        "assert float(rows.scale) == 1.0\n"
        "print(rows.train_bytes(), 1024 * (peak() - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    counted, measured = map(int, done.stdout.split())
    assert counted == pytest.approx(3_000_000 * (16 + 4), abs=100)
    assert measured < 3_000_000 * 16 * 4 * 0.75  # float values alone, without any optimizer state


def test_rows_moved_by_another_optimizer_are_read_rounded():
    """Foreign training code sees a parameter; its gradients pass straight through."""
    torch.manual_seed(0)
    rows = RoundedRows(20, 4, 0.1, torch.int8, 0.01)
    vectors = rows(torch.tensor([3, 3, 8]))
    weight = rows.weight.detach()
    expected = (weight[[3, 3, 8]] / 0.01).round() * 0.01
    torch.testing.assert_close(vectors.detach(), expected)
    with torch.no_grad():
        assert torch.equal(rows(torch.tensor([3, 3, 8])), vectors)
        assert torch.equal(rows.values()[8], vectors[2])
    torch.autograd.backward(vectors.sum())
    assert rows.weight.grad is not None
    assert rows.weight.grad[3].tolist() == [2.0] * 4
    assert rows.weight.grad[8].tolist() == [1.0] * 4


@pytest.mark.parametrize(("method", "width"), [("int8", 1), ("int16", 2)])
def test_there_is_one_size(method, width):
    """n · dim integers and a step; a larger budget buys nothing more."""
    features, config = [Feature("a", 10), Feature("b", 90)], get_method(method).Config
    assert config.smallest_bytes(features, 8) == width * 100 * 8 + 4
    assert config.for_budget(features, 8, 10**6) == config.for_budget(features, 8, width * 800 + 4)


def test_the_middle_of_the_cycle_is_the_papers_step():
    """The study uses 0.01 for int8; decay narrows a step to half before it is widened again."""
    assert Int8Config().step * 0.5**0.5 == pytest.approx(0.01, rel=0.02)
    assert Int16Config().step * 2**15 > 4


def test_a_step_of_nothing_is_refused():
    """Every value would be zero divided by zero."""
    with pytest.raises(SlimtabError, match="set step above 0"):
        Int8Config(step=0.0)


def test_what_is_served_has_the_decay_in_its_step():
    """Frozen integers are the trained ones, bit for bit, with decay pending or not."""
    features = [Feature("a", 40)]
    table = Int8(Int8Config(), features, 4, FusedRowsFactory(RowOptimizer(lr=0.1, weight_decay=0.5)), 0.1)
    table.rows.step()
    frozen, ids = table.freeze(), torch.arange(40)
    assert frozen.numbers.dtype == torch.int8
    assert float(frozen.step) == pytest.approx(0.95 * 0.014)
    with torch.no_grad():
        assert torch.equal(frozen(ids, ids * 0), table(ids, ids * 0))
    plain = Int8(Int8Config(), features, 4, PlainRows, 0.1)
    with torch.no_grad():
        assert torch.equal(plain.freeze()(ids, ids * 0), plain(ids, ids * 0))
