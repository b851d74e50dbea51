"""Searched widths: a mixture of candidates per feature, a price on bytes, and the winners inherited."""

import copy
import time

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.autodim import AutoDim, AutoDimConfig, candidates, choose_widths
from slimtab.tables.base import Clock
from slimtab.tables.mde import all_bytes
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.training import every_id
from slimtab.training.optimizers import Optimizers

FEATURES = [Feature("a", 50), Feature("b", 3000), Feature("c", 4), Feature("d", 700)]
SIZES = np.array([feature.num_ids for feature in FEATURES])
DIM = 8
FULL = 4 * DIM * int(SIZES.sum())


def build(share=0.3, make_rows=PlainRows, std=0.5):
    torch.manual_seed(0)
    config = AutoDimConfig.for_budget(FEATURES, DIM, int(share * FULL))
    return AutoDim(config, FEATURES, DIM, make_rows, std)


def pooled_of(table, rows=32):
    ids = torch.stack([torch.randint(0, f.num_ids, (rows,)) for f in FEATURES], dim=1)
    slot = torch.arange(len(FEATURES)).expand_as(ids)
    return table(ids.reshape(-1), slot.reshape(-1)).view(rows, len(FEATURES), -1)


def vectors(table, ids, slot):
    """Projected vectors [N, dim] of single ids."""
    looked_up = table(ids, slot)
    pooled = looked_up.new_zeros(len(ids), len(FEATURES), looked_up.shape[1])
    pooled[torch.arange(len(ids)), slot] = looked_up
    return table.project(pooled)[torch.arange(len(ids)), slot]


# The mixture.


def test_mixed_forward_equals_the_formula():
    """Σ_c p_c · (E^c[x] W^c) / spread_c, times the spread all candidates have in common."""
    table = build().eval()
    mixture = table.mixture
    with torch.no_grad():
        mixture.shares.normal_()
        mixture.square.uniform_(0.5, 2.0)
        pooled = pooled_of(table)
        got = table.project(pooled).numpy()
    shares, spread = mixture.shares.detach().double().numpy(), mixture.square.double().numpy() ** 0.5
    share = np.exp(shares) / np.exp(shares).sum(axis=1, keepdims=True)
    expected = np.zeros((32, 4, DIM))
    for f in range(4):
        start = 0
        for c, width in enumerate((1, 2, 4, 8)):
            x = pooled[:, f, start : start + width].double().numpy()
            to_dim = np.eye(DIM) if width == DIM else mixture.maps[f, start : start + width].detach().numpy()
            expected[:, f] += share[f, c] * (x @ to_dim) / spread[c] * spread.mean()
            start += width
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_noise_is_drawn_in_training_only():
    """Gumbel noise left on in evaluation makes every score, and the chosen widths, a matter of luck."""
    table = build()
    pooled = pooled_of(table).detach()
    assert not torch.equal(table.train().project(pooled), table.project(pooled))
    assert torch.equal(table.eval().project(pooled), table.project(pooled))


def test_drawn_shares_average_to_the_shares():
    """Cold, a draw is nearly one candidate, each as often as its share; so eval is the mean of training."""
    mixture = build().mixture
    with torch.no_grad():
        mixture.shares[:] = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
        mixture.temperature = 0.1
        drawn = torch.stack([mixture.mixture() for _ in range(4000)])
    assert float(drawn.amax(dim=2).mean()) > 0.9
    torch.testing.assert_close(drawn.mean(dim=0), mixture.eval().mixture(), rtol=0, atol=0.03)


def test_candidates_are_brought_to_one_spread():
    """A candidate that is ten times as large must not win by that, nor lose."""
    table = build().train()
    mixture = table.mixture
    with torch.no_grad():
        mixture.rows.weight[:, :1] *= 10
        for _ in range(200):
            table.project(pooled_of(table, 128))
        spread = mixture.square.sqrt()
        assert float(spread[0] / spread[1:].mean()) == pytest.approx(10, rel=0.2)
        factors = mixture.eval()._factors()[0]
        assert float(factors[1] / factors[0]) == pytest.approx(10, rel=0.2)


def test_an_empty_bag_stays_zero():
    """A centred normalisation would make it something else."""
    table = build().train()
    table.project(pooled_of(table))
    assert not table.project(torch.zeros(3, 4, table.width)).any()


def test_one_read_per_id():
    """All candidates of an id are one row: Σ widths floats, 15/8 of the full table here."""
    table = build()
    assert (table.mixture.rows.num_rows, table.mixture.rows.width) == (3754, 15)


# The search.


class Wanting(torch.nn.Module):
    """A model whose loss is whatever a test wants of the shares."""

    def __init__(self, table):
        super().__init__()
        self.table = table


def searched(share, steps=400, gain=lambda p: 0.0):
    """Shares after one epoch of steps in which validation rows say ``gain`` of them."""
    table = build(share).train()
    optimizers = Optimizers(Wanting(table), optimizer_settings(), steps)
    for step in range(steps):
        table.on_step(Clock(step, steps, 20 * steps))
        loss = gain(table.mixture._shares().softmax(dim=1)) + table.penalty()
        torch.autograd.backward(loss)
        optimizers.step_on_validation()
    return table


def optimizer_settings():
    from slimtab.config import OptimizerSettings

    return OptimizerSettings()


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_the_price_brings_the_expected_size_to_the_budget(share):
    """Where all features would rather be wide; without a price they would be."""

    def gain(p):
        return -0.002 * (p * torch.arange(4.0)).sum()

    table = searched(share, 2000, gain)
    assert float(table.mixture.expected_size()) == pytest.approx(1.0, abs=0.1)
    assert float(table.mixture.price) > 0


def test_the_price_falls_when_there_is_room():
    """Dual ascent: lower below the budget, and never below nothing."""
    table = build(0.9)
    with torch.no_grad():
        table.mixture.price.fill_(0.01)
        table.mixture.shares[:, 0] = 10.0
    prices = []
    for step in range(100):
        table.on_step(Clock(step, 100, 1000))
        prices.append(float(table.mixture.price))
    assert prices == sorted(prices, reverse=True)
    assert prices[0] < 0.01
    assert prices[-1] >= 0
    with torch.no_grad():
        table.mixture.shares[:, 3] = 30.0
    table.on_step(Clock(0, 100, 1000))
    assert float(table.mixture.price) > prices[-1]


def test_shares_move_by_validation_rows_only():
    """Shares fitted to training rows choose what overfits: bilevel learning is the point of the method."""
    table = build(make_rows=FusedRowsFactory(RowOptimizer(lr=0.01))).train()
    optimizers = Optimizers(Wanting(table), optimizer_settings(), 10)
    table.on_step(Clock(5, 10, 100))

    def backward():
        loss = table.project(pooled_of(table)).square().mean() + table.penalty()
        torch.autograd.backward(loss)

    def state():
        return table.mixture.shares.detach().clone(), table.mixture.rows.values(), table.mixture.maps.clone()

    shares, rows, maps = state()
    backward()
    optimizers.step_on_validation()
    moved = state()
    assert not torch.equal(moved[0], shares)
    assert torch.equal(moved[1], rows)
    assert torch.equal(moved[2], maps)
    backward()
    optimizers.step()
    again = state()
    assert torch.equal(again[0], moved[0])
    assert not torch.equal(again[1], rows)
    assert not torch.equal(again[2], maps)


def test_an_epoch_moves_shares_alike_however_long():
    """A rate per step would settle the widths of a large dataset before its vectors have learned anything."""
    ends = []
    for steps in (100, 1000):
        table = searched(0.9, steps, lambda p: -2e-4 * p[:, 3].sum())
        ends.append(table.mixture.shares.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=0.05, atol=0.01)


# The choice.


def cost(widths, dim=DIM, sizes=SIZES):
    return int(all_bytes(sizes, np.array(widths), dim))


def brute_force(score, nbytes, dim=DIM, sizes=SIZES):
    """The best total score of all combinations of candidates that fit."""
    width = candidates(dim)
    grid = np.stack(np.meshgrid(*[range(len(width))] * len(sizes), indexing="ij"), -1).reshape(-1, len(sizes))
    floats = np.array(width)[grid]
    fits = all_bytes(sizes, floats, dim) <= nbytes
    return score[np.arange(len(sizes)), grid].sum(axis=1)[fits].max()


def test_the_choice_is_the_best_there_is():
    """At budgets that a price on bytes meets exactly, no other of all 256 combinations scores higher."""
    rng = np.random.default_rng(0)
    width, demoted = np.array(candidates(DIM)), 0
    bytes_of = np.array([[cost([w], sizes=SIZES[f : f + 1]) for w in width] for f in range(4)])
    for _ in range(30):
        score = np.log(rng.dirichlet(np.ones(4), len(SIZES)))
        score[2, :3] = -np.inf  # four ids are smallest in full rows
        best = (score - 10 ** rng.uniform(-5, -3) * bytes_of).argmax(axis=1)
        nbytes = cost(width[best])
        widths = choose_widths(SIZES, score, DIM, nbytes)
        got = score[np.arange(4), np.searchsorted(width, widths)].sum()
        assert got == pytest.approx(brute_force(score, nbytes))
        demoted += any(best != score.argmax(axis=1))
    assert demoted > 10


def test_shares_are_not_overruled_for_the_last_bytes():
    """A budget that is used to 95 % does not widen small features against what was learned."""
    score = np.log(np.full((4, 4), 0.1))
    for slot, winner in enumerate((0, 2, 3, 0)):
        score[slot, winner] = np.log(0.7)
    exact = cost((1, 4, 8, 1))
    assert choose_widths(SIZES, score, DIM, int(1.04 * exact)) == (1, 4, 8, 1)
    assert cost(choose_widths(SIZES, score, DIM, int(1.2 * exact))) >= 0.95 * int(1.2 * exact)


def test_winners_are_kept_where_they_fit():
    """A budget that just holds the argmax widths gets them."""
    score = np.log(np.full((4, 4), 0.1))
    for slot, winner in enumerate((2, 1, 3, 0)):
        score[slot, winner] = np.log(0.7)
    assert choose_widths(SIZES, score, DIM, cost((4, 2, 8, 1))) == (4, 2, 8, 1)


def test_of_two_that_cost_alike_the_surer_one_stays_wide():
    """Margins per byte decide who is narrowed."""
    sizes = np.array([1000, 1000])
    sure, unsure = [0.0, 0.0, 0.01, 0.99], [0.2, 0.2, 0.29, 0.31]
    score = np.log(np.array([sure, unsure]) + 1e-6)
    nbytes = int(all_bytes(sizes, np.array([8, 4]), DIM))
    assert choose_widths(sizes, score, DIM, nbytes) == (8, 4)
    assert choose_widths(sizes, score[::-1], DIM, nbytes) == (4, 8)


def test_without_a_search_widths_are_even():
    """A size is planned before anything is trained."""
    sizes = np.array([5000, 4000, 6000])
    widths = choose_widths(sizes, np.zeros((3, 5)), 16, int(0.3 * 64 * 15000))
    assert max(widths) <= 2 * min(widths)


@pytest.mark.parametrize("share", [0.16, 0.25, 0.37, 0.5, 0.81, 1.0])
def test_what_steps_leave_over_is_spent(share):
    """One feature has four fifths of all ids, so a doubling is most of a budget; odd widths fill it."""
    rng = np.random.default_rng(1)
    score = np.log(rng.dirichlet(np.ones(4), len(SIZES)))
    widths = choose_widths(SIZES, score, DIM, int(share * FULL) + 32)
    assert cost(widths) <= share * FULL + 32
    assert cost(widths) >= 0.95 * share * FULL or min(widths[1], widths[3]) == DIM


def test_choosing_is_quick():
    """A plan is printed while one waits, and a group's bytes are counted over and over."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(10**6, 10**7, 60)
    started = time.perf_counter()
    choose_widths(sizes, np.zeros((60, 8)), 128, int(0.3 * 512 * sizes.sum()))
    assert time.perf_counter() - started < 0.5  # a tenth of it on a quiet core


# Retraining.


def test_full_width_inherits_the_mixture_exactly():
    """Where nothing is cut, the second stage begins with the first one's vectors."""
    table = build(1.0).eval()
    ids, slot = every_id(table)
    with torch.no_grad():
        table.mixture.shares.normal_()
        before = vectors(table, ids, slot)
        table.config = AutoDimConfig(table.config.nbytes, (DIM,) * 4)
        table.set_stage("retrain")
        torch.testing.assert_close(vectors(table, ids, slot), before, rtol=1e-5, atol=1e-6)


def test_a_cut_keeps_the_principal_components():
    """No rows and projection of that width come closer to the mixture, ids weighed by their counts."""
    table = build().eval()
    counts = torch.randint(1, 100, (int(SIZES.sum()),))
    table.use_counts(counts)
    ids, slot = every_id(table)
    with torch.no_grad():
        table.mixture.shares.normal_()
        before = vectors(table, ids, slot).double().numpy()
        table.config = AutoDimConfig(table.config.nbytes, (4, 1, 8, 3))
        table.set_stage("retrain")
        after = vectors(table, ids, slot).double().numpy()
    weight = counts.double().numpy()[:, None] ** 0.5
    for f, width in enumerate((4, 1, 8, 3)):
        mine = (slot == f).numpy()
        singular = np.linalg.svd(weight[mine] * before[mine], compute_uv=False)
        error = np.square(weight[mine] * (before[mine] - after[mine])).sum()
        assert error == pytest.approx(np.square(singular[width:]).sum(), rel=1e-4, abs=1e-6)


def test_candidates_are_gone_in_the_second_stage():
    """Training memory falls with the widths."""
    table = build(0.2)
    before = sum(p.numel() for p in table.parameters())
    table.set_stage("retrain")
    assert table.mixture is None
    assert sum(p.numel() for p in table.parameters()) < 0.15 * before
    assert table.by_validation() == []
    assert table.penalty() is None


def test_widths_are_chosen_once():
    """A table built from a config that holds them has their shapes, whatever its shares say."""
    table = build()
    table.choose("retrain")
    other = copy.deepcopy(table)
    with torch.no_grad():
        other.mixture.shares.normal_()
    table.set_stage("retrain")
    other.set_stage("retrain")
    assert table.config == other.config
    assert {n: t.shape for n, t in table.state_dict().items()} == {
        n: t.shape for n, t in other.state_dict().items()
    }


def test_nothing_is_frozen_before_widths_are_chosen():
    """A frozen mixture would be larger than the full table."""
    with pytest.raises(SlimtabError, match=r"autodim has no widths to freeze .* set_stage"):
        build().freeze()


def test_stats():
    """Expected size and price while searching, mean widths after."""
    table = build()
    assert set(table.stats()) == {"expected_size", "price", "largest_share"}
    table.set_stage("retrain")
    assert set(table.stats()) == {"mean_width", "mean_width_by_id"}
