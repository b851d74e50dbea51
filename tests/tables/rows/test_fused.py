"""Rows with a fused optimizer against the dense rule, written out slowly in NumPy float64.

The dense rule: at every step every row loses the share lr·λ; then each row with a gradient moves by its
optimizer. FusedRows touches only looked-up rows and must be indistinguishable from it.
"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtab.tables.rows.fused import FusedRows
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows

KINDS = ["adam", "rowwise_adamax", "rowwise_adagrad"]


class DenseRule:
    """The reference: all rows, all steps, no tricks."""

    def __init__(self, rows: FusedRows):
        self.optimizer, self.lr = rows.optimizer, rows.lr
        self.w = rows.values().double().numpy().copy()
        self.m, self.v = np.zeros_like(self.w), np.zeros_like(self.w)
        self.s = np.zeros(len(self.w))
        self.t = 0

    def step(self, lookups):
        """Take a step for ``lookups``: pairs of row numbers [N] and gradients [N, width] of what was read."""
        self.t += 1
        grad, touched = np.zeros_like(self.w), np.zeros(len(self.w), dtype=bool)
        for address, gradient in lookups:
            np.add.at(grad, address, gradient)
            touched[address] = True
        self.w *= 1 - self.lr * self.optimizer.weight_decay
        g, eps = grad[touched], self.optimizer.eps
        if self.optimizer.kind == "adam":
            beta1, beta2 = self.optimizer.betas
            self.m[touched] = beta1 * self.m[touched] + (1 - beta1) * g
            self.v[touched] = beta2 * self.v[touched] + (1 - beta2) * g**2
            m_hat = self.m[touched] / (1 - beta1**self.t)
            v_hat = self.v[touched] / (1 - beta2**self.t)
            self.w[touched] -= self.lr * m_hat / (np.sqrt(v_hat) + eps)
        elif self.optimizer.kind == "rowwise_adamax":
            beta1, beta2 = self.optimizer.betas
            size = np.sqrt((g**2).mean(axis=1))
            self.s[touched] = np.maximum(beta2 * self.s[touched], size)
            # As far as Adam moves a row whose moments are empty.
            m_hat, v_hat = (1 - beta1) / (1 - beta1**self.t), (1 - beta2) / (1 - beta2**self.t)
            self.w[touched] -= self.lr * m_hat / np.sqrt(v_hat) * g / (self.s[touched] + eps)[:, None]
        else:
            self.s[touched] += (g**2).mean(axis=1)
            self.w[touched] -= self.lr * g / (np.sqrt(self.s[touched]) + eps)[:, None]


def fused(kind="adam", num_rows=50, width=4, lr=0.01, decay=0.0, seed=0):
    torch.manual_seed(seed)
    return FusedRows(num_rows, width, 0.5, RowOptimizer(kind, lr, decay))


def lookup(rng, num_rows, width, count):
    """Row numbers with duplicates, and a gradient for each."""
    return rng.integers(0, num_rows, count), rng.standard_normal((count, width))


def train_step(rows, lookups):
    rows.zero_grad()
    loss = sum((rows(torch.tensor(a)) * torch.tensor(g, dtype=torch.float32)).sum() for a, g in lookups)
    loss.backward()
    rows.step()


def assert_close(rows, dense, rtol=1e-4):
    np.testing.assert_allclose(rows.values().numpy(), dense.w, rtol=rtol, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decay", [0.0, 0.1, 5.0, 60.0])
def test_equals_the_dense_rule_over_many_steps(kind, decay):
    """400 steps with duplicates; at decay 60 the shared scale is folded back dozens of times on the way."""
    rows, rng = fused(kind, decay=decay), np.random.default_rng(1)
    dense = DenseRule(rows)
    folds = 0
    for _ in range(400):
        step = [lookup(rng, 50, 4, 12)]
        before = float(rows.scale)
        train_step(rows, step)
        folds += float(rows.scale) > before
        dense.step(step)
    assert_close(rows, dense)
    assert (folds > 10) == (decay == 60.0)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_untouched_for_long_owe_all_their_decay(kind):
    """What sparse optimizers get wrong: a row unseen for 300 steps has decayed 300 times."""
    rows, rng = fused(kind, decay=1.0), np.random.default_rng(2)
    dense = DenseRule(rows)
    start = rows.values()[49].clone()
    for _ in range(300):
        step = [lookup(rng, 40, 4, 12)]  # rows 40 … 49 are left alone
        train_step(rows, step)
        dense.step(step)
    torch.testing.assert_close(rows.values()[49], start * 0.99**300)
    step = [(np.array([49, 49, 3]), np.ones((3, 4)))]
    train_step(rows, step)
    dense.step(step)
    assert_close(rows, dense)


@pytest.mark.parametrize("kind", KINDS)
def test_learning_rate_changes_midway(kind):
    """The trainer lets it fall; the decay falls with it, and nothing is owed at the old rate."""
    rows, rng = fused(kind, decay=2.0), np.random.default_rng(3)
    dense = DenseRule(rows)
    for number in range(150):
        if number % 50 == 49:
            rows.lr *= 0.1
            dense.lr *= 0.1
        step = [lookup(rng, 50, 4, 12)]
        train_step(rows, step)
        dense.step(step)
    assert_close(rows, dense)


@pytest.mark.parametrize("kind", KINDS)
def test_two_lookups_of_the_same_rows_in_one_step(kind):
    """One-hot and multi-hot features are looked up apart and may share rows: their gradients add up."""
    rows, rng = fused(kind, num_rows=8, decay=1.0), np.random.default_rng(4)
    dense = DenseRule(rows)
    for _ in range(100):
        step = [lookup(rng, 8, 4, 6), lookup(rng, 8, 4, 5), lookup(rng, 8, 4, 1)]
        train_step(rows, step)
        dense.step(step)
    assert_close(rows, dense)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lookup_that_the_loss_ignores_changes_nothing_but_decay(kind):
    """No gradient is not a gradient of zero: moments and accumulators stay."""
    rows, rng = fused(kind, decay=1.0), np.random.default_rng(5)
    dense = DenseRule(rows)
    for _ in range(30):
        used = lookup(rng, 50, 4, 6)
        rows.zero_grad()
        rows(torch.arange(50))  # read by nothing
        (rows(torch.tensor(used[0])) * torch.tensor(used[1], dtype=torch.float32)).sum().backward()
        rows.step()
        dense.step([used])
    assert_close(rows, dense)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_any_lookup_still_decays(kind):
    """The dense rule does not ask whether a batch had ids."""
    rows = fused(kind, decay=3.0)
    start = rows.values().clone()
    for _ in range(10):
        rows.zero_grad()
        rows.step()
    torch.testing.assert_close(rows.values(), start * 0.97**10)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_lookup(kind):
    """All bags of a batch may be empty."""
    rows = fused(kind)
    start = rows.values().clone()
    assert rows(torch.empty(0, dtype=torch.int64)).shape == (0, 4)
    rows.zero_grad()
    rows(torch.empty(0, dtype=torch.int64)).sum().backward()
    rows.step()
    assert torch.equal(rows.values(), start)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    num_rows=st.integers(1, 30),
    width=st.integers(1, 9),
    lr=st.floats(1e-4, 0.3),
    keep=st.floats(0.2, 1.0),
    seed=st.integers(0, 1000),
    counts=st.lists(st.lists(st.integers(1, 20), max_size=3), min_size=1, max_size=25),
)
def test_equals_the_dense_rule_whatever_the_shape(kind, num_rows, width, lr, keep, seed, counts):
    """Any table, any decay up to four fifths per step, any number of lookups per step."""
    rows, rng = fused(kind, num_rows, width, lr, (1 - keep) / lr, seed), np.random.default_rng(seed)
    dense = DenseRule(rows)
    for sizes in counts:
        step = [lookup(rng, num_rows, width, size) for size in sizes]
        if step:
            train_step(rows, step)
        else:
            rows.zero_grad()
            rows.step()
        dense.step(step)
    assert_close(rows, dense, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_without_decay_it_is_torch_on_a_dense_gradient(kind):
    """With every row touched at every step, Adam is torch's own (Adagrad has a row-wise reference only)."""
    rows, rng = fused(kind, num_rows=6), np.random.default_rng(6)
    weight = torch.nn.Parameter(rows.values().clone())
    optimizer = torch.optim.Adam([weight], lr=0.01)
    dense = DenseRule(rows)
    for _ in range(50):
        gradient = rng.standard_normal((6, 4))
        train_step(rows, [(np.arange(6), gradient)])
        dense.step([(np.arange(6), gradient)])
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
    assert_close(rows, dense)
    if kind == "adam":
        torch.testing.assert_close(rows.values(), weight.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_eval_reads_what_training_reads(kind):
    """A model must not change when it is evaluated: bit for bit, decay pending or not."""
    rows, rng = fused(kind, decay=7.0), np.random.default_rng(7)
    for _ in range(20):
        train_step(rows, [lookup(rng, 50, 4, 12)])
    address = torch.tensor([3, 3, 49, 0])
    trained = rows(address).detach()
    with torch.no_grad():
        assert torch.equal(rows(address), trained)
    assert torch.equal(rows.values()[address], trained)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_continues_identically(kind):
    """A checkpoint is worth nothing if the continued run differs, even in the last bit."""
    rows, rng = fused(kind, decay=40.0), np.random.default_rng(8)
    for _ in range(25):
        train_step(rows, [lookup(rng, 50, 4, 12)])
    other = fused(kind, decay=40.0, seed=99)
    other.load_state_dict({name: value.clone() for name, value in rows.state_dict().items()})
    for _ in range(25):
        step = [lookup(rng, 50, 4, 12)]
        train_step(rows, step)
        train_step(other, step)
    for name, value in rows.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_deepcopy_is_independent():
    """Searches and averaging copy models; a copy that shared rows would train twice."""
    rows, rng = fused(decay=1.0), np.random.default_rng(9)
    rows(torch.tensor([1, 2])).sum().backward()  # a copy in the middle of a step, too
    twin = copy.deepcopy(rows)
    rows.step()
    assert not torch.equal(rows.values(), twin.values())
    twin.step()
    assert torch.equal(rows.values(), twin.values())
    train_step(twin, [lookup(rng, 50, 4, 12)])
    assert not torch.equal(rows.values(), twin.values())


def test_gradient_norm():
    """None tells 'no gradient arrived' from a gradient of zero: the trainer warns about the former."""
    rows = fused()
    assert rows.grad_norm() is None
    out = rows(torch.tensor([1, 1, 2]))
    assert rows.grad_norm() is None
    (out * torch.tensor([1.0, 2.0, 4.0])[:, None]).sum().backward()
    assert rows.grad_norm() == pytest.approx((4 * (3**2 + 4**2)) ** 0.5)  # the duplicate adds up first
    rows.zero_grad()
    assert rows.grad_norm() is None
    (rows(torch.tensor([1])) * 0.0).sum().backward()
    assert rows.grad_norm() == 0.0


def test_touched_norm():
    """Weight norms on the dashboard are over the rows just read; the table is never read whole."""
    rows = fused()
    assert rows.touched_norm() == 0.0
    rows(torch.tensor([5, 5, 6]))
    assert rows.touched_norm() == pytest.approx(float(rows.values()[5:7].norm()))


def test_reading_without_gradients_is_not_remembered():
    """An evaluation between steps must neither be trained on nor grow memory."""
    rows = fused(decay=1.0)
    with torch.no_grad():
        rows(torch.tensor([1, 2]))
    assert rows.touched_norm() == 0.0


def test_start_values_have_the_asked_deviation():
    """Methods are only comparable when they start from the same variance."""
    torch.manual_seed(0)
    rows = FusedRows(20_000, 8, 0.05, RowOptimizer())
    assert float(rows.values().std()) == pytest.approx(0.05, rel=0.02)
    assert float(rows.values().mean()) == pytest.approx(0.0, abs=0.001)
    torch.manual_seed(0)
    assert torch.equal(PlainRows(20_000, 8, 0.05).values(), rows.values())


@pytest.mark.parametrize(
    ("kind", "floats"), [("adam", 3 * 8), ("rowwise_adamax", 8 + 1), ("rowwise_adagrad", 8 + 1)]
)
def test_train_bytes(kind, floats):
    """Two moments per weight for Adam, one number per row otherwise."""
    rows = fused(kind, num_rows=100, width=8)
    assert rows.train_bytes() == 4 * 100 * floats


@pytest.mark.parametrize("kind", KINDS)
def test_squared_gradients_are_read_off_the_state(kind):
    """Σ over steps of each row's mean squared gradient; for Adam exact while gradients do not change."""
    rows, rng = fused(kind, decay=0.1), np.random.default_rng(0)
    strength = torch.from_numpy(rng.random(50).astype(np.float32)) + 0.1
    touches = torch.from_numpy(rng.integers(1, 9, 50))
    for step in range(8):
        rows.zero_grad()
        address = (touches > step).nonzero().squeeze(1)
        (rows(address) * strength[address, None]).sum().backward()
        rows.step()
    torch.testing.assert_close(rows.squared_gradients(touches), touches * strength**2, rtol=1e-3, atol=0)
    assert torch.equal(PlainRows(50, 4, 0.1).squared_gradients(touches), touches.float())


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_rows_have_no_squared_gradients(kind):
    """Zero, not 0 / 0: a resumed training fits codes once before its weights are loaded."""
    assert fused(kind).squared_gradients(torch.ones(50)).tolist() == [0.0] * 50


@pytest.mark.parametrize("kind", KINDS)
def test_assign_replaces_rows_and_forgets_moments(kind):
    """Clustering moves a row far away: the old momentum would carry it further."""
    rows, other = fused(kind, decay=1.0), fused(kind, decay=1.0, seed=1)
    for _ in range(3):
        rows.zero_grad()
        rows(torch.arange(10)).sum().backward()
        rows.step()
    new = torch.randn(50, 4)
    rows.assign(new)
    assert torch.equal(rows.values(), new)
    assert float(rows.packed[:, 4:].abs().sum()) == 0
    other.assign(new)
    assert torch.equal(other.values(), new)
    plain = PlainRows(50, 4, 0.1)
    plain.assign(new)
    assert torch.equal(plain.values(), new)


@pytest.mark.parametrize("kind", KINDS)
def test_copied_rows_go_on_alike(kind):
    """A row given to another id carries its optimizer state along; no other row moves."""
    rows = fused(kind, decay=0.1)
    rng = np.random.default_rng(4)
    for _ in range(5):
        train_step(rows, [lookup(rng, 20, 4, 30)])
    before = rows.values()
    source, target = torch.tensor([3, 7]), torch.tensor([40, 41])
    rows.copy_rows(source, target)
    expected = before.clone()
    expected[target] = before[source]
    assert torch.equal(rows.values(), expected)
    same = np.ones((4, 4))
    train_step(rows, [(np.array([3, 7, 40, 41]), same)])
    assert torch.equal(rows.values()[source], rows.values()[target])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_handed_over_go_on_as_they_were(kind):
    """Values, moments, decay and the count of steps: what is trained next moves as it would have."""
    source, rng = fused(kind, decay=1.0), np.random.default_rng(7)
    for _ in range(20):
        train_step(source, [lookup(rng, 50, 4, 12)])
    other, address = fused(kind, num_rows=10, decay=1.0, seed=1), torch.arange(30, 40)
    other.take(source, address)
    assert torch.equal(other.values(), source.values()[30:40])
    rows, grads = np.array([31, 31, 36]), rng.standard_normal((3, 4))
    train_step(source, [(rows, grads)])
    train_step(other, [(rows - 30, grads)])
    torch.testing.assert_close(other.values(), source.values()[30:40])
