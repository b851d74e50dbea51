"""Pruning by magnitude: the schedule, exact densities, and what stays while elements go."""

import copy

import pytest
import torch

from slimtab.schema import Feature
from slimtab.tables.base import Clock
from slimtab.tables.deeplight import DeepLight, zero_up_to
from slimtab.tables.parts.pruning import PrunedConfig, cut
from slimtab.tables.parts.sparse import sparse_bytes
from slimtab.tables.rows.fused import FusedRows
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.training import every_id

FEATURES = (Feature("C1", 400), Feature("C2", 100), Feature("C3", 3))
ROWS, DIM = 503, 8
NBYTES = 4000


def fused(num_rows, width, init_std):
    return FusedRows(num_rows, width, init_std, RowOptimizer(lr=0.05, weight_decay=1.0))


def build(make_rows=fused, **options):
    torch.manual_seed(0)
    config = PrunedConfig.for_budget(FEATURES, DIM, NBYTES, **options)
    return DeepLight(config, FEATURES, DIM, make_rows, 0.1)


def step(table, count=1):
    """Train all rows towards something."""
    ids, slot = every_id(table)
    for _ in range(count):
        table.rows.zero_grad()
        (table(ids, slot) - 0.05).square().sum().backward()
        table.rows.step()


def final_elements(table):
    """How many elements a cut to the budget leaves now."""
    return int(cut(table.rows.values().abs(), NBYTES).sum())


@pytest.mark.parametrize(("step_", "expected"), [(0, 0.0), (50, 0.9693), (100, 1.0), (170, 1.0)])
def test_rate_follows_the_schedule(step_, expected):
    """R_t = R · (1 − D^(t/U)): nothing at first, 97 % half-way (1 − √D, D a thousandth), R at the end."""
    table = build()
    table.set_stage("prune")
    target = 1 - final_elements(table) / (ROWS * DIM)
    table.on_step(Clock(step_, 100, 2000))
    gone = float((table.rows.values() == 0).float().mean())
    assert gone == pytest.approx(expected * target, abs=1 / (ROWS * DIM))


def test_ramp_is_in_epochs():
    """Runs of any length: twice the ramp is half as far after as many steps."""
    table = build(ramp=2.0)
    table.set_stage("prune")
    target = 1 - final_elements(table) / (ROWS * DIM)
    table.on_step(Clock(100, 100, 2000))
    assert float((table.rows.values() == 0).float().mean()) == pytest.approx(0.9693 * target, abs=1e-3)


def test_only_every_so_many_steps():
    """A pass over the table at each step would cost more than the step."""
    table = build()
    table.set_stage("prune")
    for clock in (Clock(11, 100, 200), Clock(101, 1000, 2000), Clock(9, 10, 200)):
        table.on_step(clock)
    assert not bool((table.rows.values() == 0).any())


def test_the_first_stage_prunes_nothing():
    """It trains the full table, eval included."""
    table = build()
    table.on_step(Clock(100, 100, 2000))
    assert not bool((table.eval()(*every_id(table)) == 0).any())


@pytest.mark.parametrize("make_rows", [fused, PlainRows])
def test_small_elements_go_and_large_ones_stay(make_rows):
    """To the bit, also where rows are stored divided by the decay they share."""
    table = build(make_rows)
    if make_rows is fused:
        step(table, 3)
    before = table.rows.values()
    zero_up_to(table.rows, torch.tensor(0.07))
    expected = torch.where(before.abs() <= 0.07, torch.zeros(()), before)
    torch.testing.assert_close(table.rows.values(), expected, rtol=1e-6, atol=0)
    assert 0 < int((expected == 0).sum()) < expected.numel()


def test_pruned_elements_grow_back():
    """Magnitude at one moment is no verdict: what the loss wants returns until it is pruned again."""
    table = build()
    table.set_stage("prune")
    table.on_step(Clock(100, 100, 2000))
    gone = table.rows.values() == 0
    step(table)
    assert bool((table.rows.values()[gone] != 0).all())


def test_moments_are_inherited():
    """Trap 18: DeepLight goes on with the optimizer it had, between stages and over each pruning."""
    table = build()
    step(table, 3)
    moments, steps = table.rows.packed[:, DIM:].clone(), table.rows.steps.clone()
    for stage in ("prune", "finetune"):
        table.choose(stage)
        table.set_stage(stage)
        table.on_step(Clock(100, 100, 2000))
        assert torch.equal(table.rows.packed[:, DIM:], moments)
        assert table.rows.steps == steps
    assert table.rewinds == ()


def test_eval_while_pruning_shows_the_final_density():
    """Else the least pruned weights would win on validation, and the cut after them would undo it."""
    table = build()
    table.set_stage("prune")
    step(table, 2)
    vectors = table.eval()(*every_id(table))
    kept = cut(table.rows.values().abs(), NBYTES)
    assert torch.equal(vectors, table.rows.values() * kept)
    table.train()
    step(table, 2)
    assert not torch.equal(table.eval()(*every_id(table)) != 0, kept)
    assert table.freeze().serve_bytes() <= NBYTES
    assert torch.equal(table.freeze()(*every_id(table)), table(*every_id(table)))


def test_final_density_is_exact():
    """Trap 14: at the end there are as many elements as the bytes hold, and fine-tuning adds none."""
    table = build()
    step(table, 2)
    table.set_stage("prune")
    step(table, 2)
    expected = cut(table.rows.values().abs(), NBYTES)
    table.choose("finetune")
    table.set_stage("finetune")
    assert torch.equal(table.mask, expected)
    step(table, 20)
    vectors = table(*every_id(table))
    assert torch.equal(vectors != 0, expected)
    config = table.config
    assert (config.rows, config.elements) == (int(expected.any(dim=1).sum()), int(expected.sum()))
    assert table.freeze().serve_bytes() == sparse_bytes(ROWS, DIM, config.rows, config.elements)
    assert NBYTES - 16 <= table.serve_bytes() <= NBYTES


def test_a_resumed_stage_takes_the_mask_of_the_checkpoint():
    """The config says how much is kept, the checkpoint which; weights made anew have no say."""
    table = build()
    table.set_stage("prune")
    table.set_stage("finetune")
    other = build()
    other.rows.assign(torch.randn(ROWS, DIM))
    other.adopt(table.config)
    other.set_stage("prune")
    other.set_stage("finetune")
    assert other.freeze().serve_bytes() == table.freeze().serve_bytes()
    other.load_state_dict(copy.deepcopy(table.state_dict()))
    assert torch.equal(other(*every_id(table)), table(*every_id(table)))


def test_a_large_table_samples_to_find_its_rate():
    """Rows beyond the sample are pruned by what the sample says, within what a sample can know."""
    features = (Feature("C1", 40_000), Feature("C2", 1000))
    torch.manual_seed(0)
    table = DeepLight(PrunedConfig.for_budget(features, 4, 200_000), features, 4, PlainRows, 0.1)
    table.set_stage("prune")
    target = 1 - float(cut(table.rows.values().abs(), 200_000).float().mean())
    table.on_step(Clock(100, 100, 2000))
    assert float((table.rows.values() == 0).float().mean()) == pytest.approx(target, abs=0.02)
