"""Gates by frequency and dimension: who shares one, what moves it, and what is left when it has spoken."""

import itertools

import numpy as np
import pytest
import torch

from slimtab.config import OptimizerSettings
from slimtab.schema import Feature
from slimtab.tables.autosrh import AutoSrh, AutoSrhConfig
from slimtab.tables.base import Clock
from slimtab.tables.parts.pruning import cut
from slimtab.tables.parts.sparse import sparse_bytes
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.training import every_id
from slimtab.training.optimizers import Optimizers

FEATURES = (Feature("C1", 400), Feature("C2", 100), Feature("C3", 3))
EDGES = (0, 400, 500, 503)
ROWS, DIM = 503, 8
NBYTES = 4000


def build(make_rows=PlainRows, stage="train"):
    torch.manual_seed(0)
    config = AutoSrhConfig.for_budget(FEATURES, DIM, NBYTES)
    table = AutoSrh(config, FEATURES, DIM, make_rows, 0.1)
    if stage != "train":
        table.set_stage("search")
    return table


class Wanting(torch.nn.Module):
    """A table, and a network that wants nothing."""

    def __init__(self, table):
        super().__init__()
        self.table, self.network = table, torch.nn.Linear(1, 1)


def moved_once(table, loss, lr=1.0):
    """Gates after one step on validation rows with ``loss`` of all vectors."""
    optimizers = Optimizers(Wanting(table), OptimizerSettings(), 100)
    table.on_step(Clock(0, 100, 1000))
    (loss(table(*every_id(table))) + table.penalty()).backward()
    optimizers.step_on_validation()
    return table.gates.detach().clone()


# Groups.


def test_groups_without_counts_are_even_ranges_of_ids():
    """Ids are numbered by falling frequency, so a sixth of a feature's ids is a group of like frequency."""
    table = build()
    group = table.group(*every_id(table))
    for start, stop in itertools.pairwise(EDGES):
        mine = group[start:stop]
        assert bool((mine.diff() >= 0).all())
        sizes = torch.bincount(mine, minlength=6)
        assert int(sizes.max() - sizes.min()) <= 1
    assert group[0] == 0
    assert group[399] == 5


def test_groups_follow_counts_over_all_features():
    """An id of a small feature that is as frequent as one of a large feature is in its group."""
    counts = torch.cat([torch.arange(400, 0, -1), 3 * torch.arange(100, 0, -1), torch.tensor([5000, 900, 8])])
    table = build()
    table.use_counts(counts)
    group = table.group(*every_id(table)).numpy()
    assert list(group[[0, 400, 500]]) == [0, 0, 0]
    known = np.delete(np.arange(ROWS), [0, 400, 500])  # id 0 stands first, whatever its count
    order = known[np.argsort(-counts.numpy()[known], kind="stable")]
    assert (np.diff(group[order]) >= 0).all()
    assert np.bincount(group, minlength=6).tolist() == pytest.approx([ROWS / 6] * 6, abs=4)
    of_count = {}
    for count, own in zip(counts.numpy()[known], group[known], strict=True):
        assert of_count.setdefault(count, own) == own  # equal counts stay together


def test_a_rare_unknown_stays_first():
    """Id 0 is out of vocabulary and not sorted; its count must not shift the ranges of all others."""
    counts = torch.cat([torch.arange(400, 0, -1), torch.arange(100, 0, -1), torch.tensor([3, 2, 1])])
    rare = counts.clone()
    rare[[0, 400]] = 0
    one, other = build(), build()
    one.use_counts(counts)
    other.use_counts(rare)
    assert int((one.bounds - other.bounds).abs().max()) <= 1
    assert other.group(torch.tensor([0, 1]), torch.tensor([0, 0])).tolist() == [0, 0]


def test_most_ids_of_one_count():
    """A vocabulary's tail is all seen twice: it is one group, and takes no frequent id with it."""
    table = build()
    table.use_counts(torch.cat([torch.tensor([9, 8, 7]), torch.full((500,), 2)]))
    group = table.group(*every_id(table))
    tail = [*range(3, 400), *range(401, 500), 501, 502]
    assert len(set(group[tail].tolist())) == 1
    assert set(group[[0, 1, 2, 400, 500]].tolist()) == {0}
    assert 0 < int(group.max()) <= 5


# Gates.


def test_lookup_equals_the_formula():
    """E[x] ⊙ α[group of x], in NumPy; in eval without what an exact cut takes."""
    table = build(stage="search")
    with torch.no_grad():
        table.gates.uniform_()
    ids, slot = every_id(table)
    group, gates = table.group(ids, slot).numpy(), table.gates.detach().numpy()
    expected = table.rows.values().numpy() * gates[group]
    np.testing.assert_allclose(table.train()(ids, slot).detach(), expected, rtol=1e-6)
    kept = cut(torch.from_numpy(expected).abs(), NBYTES).numpy()
    np.testing.assert_allclose(table.eval()(ids, slot).detach(), expected * kept, rtol=1e-6)


def test_the_first_stage_is_a_plain_table():
    """Warm-up: gates are not there yet, and learn nothing."""
    table = build()
    assert torch.equal(table(*every_id(table)), table.rows.values())
    assert table.penalty() is None
    assert table.by_validation() == []
    assert not table.gates.requires_grad


def test_gradients_are_of_one_size_in_each_group():
    """g / mean|g| per group: rare groups, whose gradients are tiny, are searched as frequent ones are."""
    table = build(stage="search")
    with torch.no_grad():
        table.gates.fill_(0.5)
    upstream = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))
    ids, slot = every_id(table)
    group = table.group(ids, slot)
    upstream = upstream * 10.0 ** -group[:, None]  # each group a tenth of the one before
    gates = moved_once(table, lambda vectors: (vectors * upstream).sum())
    raw = np.zeros((6, DIM))
    np.add.at(raw, group.numpy(), upstream.numpy() * table.rows.values().numpy())
    raw += 1e-5
    expected = 0.5 - raw / (np.abs(raw).mean(axis=1, keepdims=True) + 1e-8) / 100  # one epoch of 100 steps
    np.testing.assert_allclose(gates, expected, rtol=1e-3)
    np.testing.assert_allclose(np.abs(gates.numpy() - 0.5).mean(axis=1), 0.01, rtol=1e-2)


def test_two_lookups_of_one_step_are_one_gradient():
    """One-hot and multi-hot features are looked up apart; normalised apart, either would count as much."""
    first, second = build(stage="search"), build(stage="search")
    ids, slot = every_id(first)
    weight = torch.where(slot == 0, 1.0, 100.0)[:, None]

    def whole(vectors):
        return (vectors * weight).square().sum()

    one = moved_once(first, whole)
    optimizers = Optimizers(Wanting(second), OptimizerSettings(), 100)
    second.on_step(Clock(0, 100, 1000))
    parts = [second(ids[slot == k], slot[slot == k]) * weight[slot == k] for k in range(3)]
    (sum(part.square().sum() for part in parts) + second.penalty()).backward()
    optimizers.step_on_validation()
    torch.testing.assert_close(second.gates.detach(), one)


def test_unused_gates_close():
    """The penalty is small, and all there is where no data says otherwise."""
    table = build(stage="search")
    for _ in range(5):
        gates = moved_once(table, lambda vectors: 0.0 * vectors.sum())
    np.testing.assert_allclose(gates, 1 - 5 / 100, rtol=1e-3)


def test_gates_stay_between_closed_and_open():
    """What is beyond 1 would only be undone by rows, and what is below 0 would turn them around."""
    table = build(stage="search")
    with torch.no_grad():
        table.gates[0], table.gates[1] = 1.7, -0.4
    ids, slot = every_id(table)
    group = table.group(ids, slot)
    vectors = table.train()(ids, slot)
    assert torch.equal(vectors[group == 0], table.rows.values()[group == 0])
    assert not vectors[group == 1].any()
    table.on_step(Clock(1, 100, 1000))
    assert float(table.gates.detach().min()) == 0.0
    assert float(table.gates.detach().max()) == 1.0


def test_gates_move_by_validation_rows_only():
    """Bilevel learning: training rows move vectors, validation rows how much each of their parts counts."""
    table = build(FusedRowsFactory(RowOptimizer(lr=0.01)), stage="search")
    optimizers = Optimizers(Wanting(table), OptimizerSettings(), 100)

    def backward():
        (table(*every_id(table)).square().mean() + table.penalty()).backward()

    table.on_step(Clock(0, 100, 1000))
    rows, gates = table.rows.values(), table.gates.detach().clone()
    backward()
    optimizers.step_on_validation()
    moved = table.gates.detach().clone()
    assert not torch.equal(moved, gates)
    assert torch.equal(table.rows.values(), rows)
    backward()
    optimizers.step()
    assert torch.equal(table.gates.detach(), moved)
    assert not torch.equal(table.rows.values(), rows)


def test_the_network_stands_still_while_gates_learn():
    """Otherwise it would make up for any gate."""
    table = build(stage="search")
    network, rows = table.learning_rates()
    assert network == 0.0
    assert rows > 0


# Pruning.


def test_the_mask_keeps_the_largest_gated_elements():
    """What is pruned is |E ⊙ α|, not |E|: a closed gate takes its whole column."""
    table = build(stage="search")
    with torch.no_grad():
        table.gates[:, 3] = 0.0
        table.gates[5] = 0.01
    table.set_stage("retrain")
    ids, slot = every_id(table)
    gated = (table.rows.values() * table.gates[table.group(ids, slot)]).abs()
    assert not table.mask[:, 3].any()
    assert not table.mask[table.group(ids, slot) == 5].any()
    assert float(gated[table.mask].min()) >= float(gated[~table.mask].max())


def test_the_budget_is_met_and_density_is_exact():
    """Sparse bytes, bits and counts included; config and artefact agree on what is kept."""
    table = build(stage="search")
    table.set_stage("retrain")
    config, frozen = table.config, table.freeze()
    assert int(table.mask.sum()) == config.elements
    assert frozen.serve_bytes() == sparse_bytes(ROWS, DIM, config.rows, config.elements)
    assert 0.99 * NBYTES <= frozen.serve_bytes() <= NBYTES


def test_the_mask_holds_while_retraining():
    """Pruned before the last stage, and kept: what is pruned does not grow back, and the rest learns."""
    table = build(FusedRowsFactory(RowOptimizer(lr=0.05)), stage="search")
    with torch.no_grad():
        table.gates.uniform_(0.2, 1.0)
    table.set_stage("retrain")
    ids, slot = every_id(table)
    before, gates = table(ids, slot).detach(), table.gates.detach().clone()
    optimizers = Optimizers(Wanting(table), OptimizerSettings(), 100)
    for step in range(5):
        table.on_step(Clock(step, 100, 1000))
        optimizers.zero_grad()
        (table(ids, slot) - 1.0).square().mean().backward()
        optimizers.step()
    after = table(ids, slot).detach()
    assert not after[~table.mask].any()
    assert bool((after[table.mask] > before[table.mask]).all())
    assert torch.equal(table.gates.detach(), gates)
    assert table.by_validation() == []


def test_gates_are_folded_into_what_is_served():
    """A frozen table knows no groups: the same vectors, and no byte for gates."""
    table = build(stage="search")
    with torch.no_grad():
        table.gates.uniform_(0.1, 1.0)
    table.set_stage("retrain")
    frozen = table.eval().freeze()
    assert torch.equal(frozen(*every_id(table)), table(*every_id(table)))
    assert not any("gate" in name or "bound" in name for name in frozen.state_dict())


def test_frozen_while_searching_is_cut():
    """What a cut would leave now, as eval shows it."""
    table = build(stage="search").eval()
    with torch.no_grad():
        table.gates.uniform_(0.1, 1.0)
    table.eval()
    torch.testing.assert_close(table.freeze()(*every_id(table)), table(*every_id(table)).detach())


def test_ramp_is_no_option():
    """Elements go at once here: an option that does nothing would only mislead."""
    with pytest.raises(Exception, match="no option 'ramp'"):
        AutoSrhConfig.for_budget(FEATURES, DIM, NBYTES, ramp=2.0)


def test_stats():
    """How far each group's gates are open."""
    table = build(stage="search")
    with torch.no_grad():
        table.gates[2] = 0.25
    stats = table.stats()
    assert stats["gates_0"] == 1.0
    assert stats["gates_2"] == 0.25
