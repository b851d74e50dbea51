"""ALPT: how steps are learned, that they stay positive, and that rows keep to what is served."""

import numpy as np
import pytest
import torch
from row_helpers import push

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.alpt import ALPT, ALPTConfig, LearnedStepRows, StretchedRows, step_derivative
from slimtab.tables.base import get_method
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows


def make(num_rows=50, width=4, std=0.1, step_lr=0.02, dtype=torch.int8, **optimizer):
    torch.manual_seed(0)
    return LearnedStepRows(num_rows, width, std, RowOptimizer(**optimizer), dtype, step_lr)


def reference_derivative(v, low, high):
    """Methods.md §6.9, one number at a time."""
    if v < low:
        return low
    return high if v > high else np.round(v) - v


def test_derivative_of_the_step():
    """Inside what rounding adds, outside the end of the range."""
    numbers = [-500.0, -128.4, -128.0, -0.3, 0.0, 0.7, 127.0, 127.2, 300.0]
    expected = [reference_derivative(v, -128, 127) for v in numbers]
    torch.testing.assert_close(
        step_derivative(torch.tensor(numbers), torch.int8), torch.tensor(expected).float(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad"])
def test_steps_equal_a_slow_reference(kind):
    """Dequantise, decay, move, learn the step, round to the new one; row by row."""
    lr, decay, step_lr = 0.05, 0.2, 0.3
    rows = make(6, 3, std=0.05, step_lr=step_lr, kind=kind, lr=lr, weight_decay=decay)
    size, scale = np.zeros(6), 1.0
    rng = np.random.default_rng(0)
    for t in range(1, 30):
        address = np.sort(rng.choice(6, 3, replace=False))
        grad = rng.normal(size=(3, 3))
        numbers, unit = rows.numbers.double().numpy(), rows.unit.double().numpy()
        torch.manual_seed(t)
        push(rows, address, grad.astype(np.float32))
        torch.manual_seed(t)
        noise = torch.rand(3, 3).double().numpy()
        old = scale
        scale *= 1 - lr * decay
        for k, row in enumerate(address):
            if kind == "adam":
                size[row] = root = max(0.999 * size[row], np.sqrt((grad[k] ** 2).mean()))
                rate = lr * (1 - 0.9) / (1 - 0.9**t) * np.sqrt((1 - 0.999**t) / (1 - 0.999))
            else:
                size[row] += (grad[k] ** 2).mean()
                root, rate = np.sqrt(size[row]), lr
            slope = grad[k] / root
            half = np.float64(np.float16(unit[row] * old))
            moved = half * numbers[row] * (1 - lr * decay) - rate * slope
            half = np.float64(np.float16(unit[row] * scale))
            learned = sum(
                s * reference_derivative(v, -128, 127) for s, v in zip(slope, moved / half, strict=True)
            )
            learned /= np.sqrt(3 * 127)
            unit[row] *= np.exp(np.clip(-step_lr * learned, -0.5, 0.5))
            half = np.float64(np.float16(unit[row] * scale))
            numbers[row] = np.floor(moved / half + noise[k]).clip(-128, 127)
        np.testing.assert_allclose(rows.unit.numpy(), unit, rtol=2e-3)
        # A half-precision step that lands on the other side of a tie moves large numbers by one.
        assert np.abs(rows.numbers.double().numpy() - numbers).max() <= 1
        assert (rows.numbers.double().numpy() != numbers).mean() < 0.2


def test_a_row_that_outgrows_its_range_gets_a_wider_one():
    """Fixed steps clip for good; learned ones follow rows to a hundred times their start."""
    rows = make(10, 4, std=0.01, kind="rowwise_adagrad", lr=0.1)
    start = rows.unit.clone()
    for _ in range(300):
        vectors = rows(torch.arange(5))
        torch.autograd.backward((vectors - 1.0).square().sum())
        rows.step()
    torch.testing.assert_close(rows.values()[:5], torch.ones(5, 4), rtol=0, atol=0.05)
    assert float((rows.unit / start)[:5].min()) > 5
    assert torch.equal(rows.unit[5:], start[5:])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_steps_stay_positive(sign):
    """Whatever the gradient: learned in proportion, and at most by half at once."""
    rows = make(10, 4, std=0.1, step_lr=100.0, lr=0.5, weight_decay=0.5)
    for t in range(200):
        push(rows, list(range(10)), sign * 10.0 ** (t % 7) * torch.randn(10, 4))
    assert float(rows.unit.min()) > 0
    assert float(rows.served_step().float().min()) > 0
    assert bool(torch.isfinite(rows.values()).all())


def test_the_range_holds_the_start():
    """Clipped from the start would be another start than asked for."""
    for std in (0.001, 0.01, 0.1):
        rows = make(5000, 8, std=std)
        assert int(rows.numbers.abs().max()) < 127
        assert float(rows.values().std()) == pytest.approx(std, rel=0.05)


def test_untouched_rows_keep_their_digits_under_decay():
    """Decay narrows steps and rounds nothing, however long it lasts."""
    rows = make(200, 4, std=0.1, lr=0.1, weight_decay=0.5)
    before, numbers = rows.values(), rows.numbers.clone()
    for _ in range(140):
        rows.step()
    keep = 0.95**140  # 0.0008: folded in once
    assert float(rows.scale) > keep
    assert torch.equal(rows.numbers, numbers)
    torch.testing.assert_close(rows.values(), keep * before, rtol=0.02, atol=1e-6)


def test_rounding_of_a_row_does_not_reach_others():
    """Only rows of the batch are rounded, and only their steps learned."""
    rows = make(50, lr=0.1)
    numbers, unit = rows.numbers.clone(), rows.unit.clone()
    push(rows, [3, 9, 9], torch.randn(3, 4))
    others = [row for row in range(50) if row not in (3, 9)]
    assert torch.equal(rows.numbers[others], numbers[others])
    assert torch.equal(rows.unit[others], unit[others])


def test_training_holds_less_than_a_float_table():
    """Integers, a step and one float of optimizer state per row; no second copy in floats."""
    rows = make(1000, 16)
    assert rows.train_bytes() < 1000 * 16 * 4 / 2
    assert all(buffer.dtype == torch.int8 for buffer in rows.buffers() if buffer.dim() == 2)


def test_rows_moved_by_another_optimizer_learn_their_steps_too():
    """Straight through to the weight, the learned step's gradient to the stretch."""
    torch.manual_seed(0)
    rows = StretchedRows(20, 4, 0.1, torch.int8)
    with torch.no_grad():
        rows.weight[3, 0] = 100.0  # far outside
    grad = torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    torch.autograd.backward((rows(torch.tensor([3])) * grad).sum())
    assert rows.weight.grad is not None
    assert rows.stretch.grad is not None
    assert torch.equal(rows.weight.grad[3], grad[0])
    step = float(rows.served_step()[3])
    numbers = (rows.weight[3] / step).detach().double().numpy()
    derivative = [reference_derivative(v, -128, 127) for v in numbers]
    expected = rows.start * float(np.dot(grad[0].numpy(), derivative)) / np.sqrt(4 * 127)
    assert float(rows.stretch.grad[3]) == pytest.approx(expected, rel=1e-3)
    assert float(rows.stretch.grad[4]) == 0.0


@pytest.mark.parametrize(("bits", "nbytes"), [(8, 10), (16, 18)])
def test_there_is_one_size(bits, nbytes):
    """n · dim integers and a step for each row, which is not free."""
    features, config = [Feature("a", 10), Feature("b", 90)], get_method("alpt").Config
    assert config.smallest_bytes(features, 8, bits=bits) == nbytes * 100
    assert config.for_budget(features, 8, 10**6, bits=bits) == ALPTConfig(bits=bits)
    table = ALPT(ALPTConfig(bits=bits), features, 8, PlainRows, 0.1)
    assert table.serve_bytes() == nbytes * 100


def test_bits_it_has_not_are_refused():
    """The error says which there are."""
    with pytest.raises(SlimtabError, match="set bits to 8 or 16"):
        ALPTConfig(bits=4)


def test_stats_tell_of_clipping():
    """A table at the ends of its range learns no more; dashboards must show it."""
    table = ALPT(ALPTConfig(), [Feature("a", 40)], 4, FusedRowsFactory(RowOptimizer()), 0.1)
    assert table.stats()["clipped"] == 0.0
    table.rows.numbers[:10] = 127
    assert table.stats()["clipped"] == 0.25
