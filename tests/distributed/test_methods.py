"""Every method over two ranks: what a step does must not depend on how many processes share it."""

import pytest
import torch
from rank_helpers import run_ranks, values

from slimtab.batch import Batch, Ragged
from slimtab.collection import TableCollection
from slimtab.config import build_config
from slimtab.errors import SlimtabError
from slimtab.models.base import build_model
from slimtab.tables.base import Clock, methods
from slimtab.testing.fakes import fake_schema
from slimtab.testing.training import planted_batches
from slimtab.training.engine.base import Engine
from slimtab.training.optimizers import Optimizers
from slimtab.training.stepping import table_of

SCHEMA = fake_schema([300, 40, 500], numerics=2, multi_hot=[60])
STEPS = 6
SPREAD = sorted(name for name, table in methods().items() if table.spreads)
METHODS = sorted(methods())
# What these draw at random: each rank for the forward pass of its rows, all alike for rounding.
DRAWING = ("nested", "optembed", "optembed-d", "autodim", "int8", "alpt")


def settings(method, spread):
    budget = None if method == "full" else "60%"
    table = {"method": method, "budget": budget, "options": {"project": True} if method == "unified" else {}}
    if spread:
        rows = {"rows": "rowwise_adagrad", "rows_lr": 0.02, "rows_decay": 0.5}
        return build_config({"table": table, "optimizer": rows, "ranks": {"shard_from": 0}})
    return build_config({"table": table})


def part(batch, share):
    """One rank's rows of a batch."""
    first, last = share.of(batch.size)
    ragged = batch.ragged
    mine = torch.zeros_like(ragged.lengths, dtype=torch.bool)
    mine[:, first:last] = True
    ids = ragged.values[mine.flatten().repeat_interleave(ragged.lengths.flatten())]
    return Batch(
        batch.dense[first:last],
        batch.keys,
        batch.ids[first:last],
        batch.label[first:last],
        Ragged(ragged.keys, ids, ragged.lengths[:, first:last]),
        batch.size,
    )


def losses_of(engine, config, folder):
    """Losses of a few steps, the last of them on fewer rows than ranks."""
    torch.manual_seed(0)
    tables = TableCollection.build(
        SCHEMA.features,
        16,
        config.table.method,
        config.table.budget,
        config.table.options,
        engine.make_rows(config.optimizer, STEPS),
    )
    model = build_model("deepfm", tables, len(SCHEMA.numerics), {"mlp": [8]}).train()
    engine.begin(model, folder)
    model.to(engine.device)
    optimizers = Optimizers(model, config.optimizer, STEPS)
    losses = []
    batches = [*planted_batches(SCHEMA, STEPS - 1, 64, 0), *planted_batches(SCHEMA, 1, 1, 9)]
    for step, batch in enumerate(batches):
        mine = part(batch, engine.share).to(engine.device)
        table_of(model).on_step(Clock(step, STEPS, STEPS))
        optimizers.zero_grad()
        if optimizers.on_validation is not None:
            engine.collect(model, mine, float)
            optimizers.step_on_validation()
        losses.append(engine.collect(model, mine, float))
        optimizers.step()
    if engine.share.ranks > 1:
        engine.check_copies(model.state_dict())
        assert config.ranks.shard_from or any(".block." in name for name in model.state_dict())
    return losses


def ranked(names, spread, folder):
    from torch import distributed

    from slimtab.training.engine.ranks import RankedEngine

    distributed.init_process_group("gloo")
    found = {}
    for name in names:
        config = settings(name, spread)
        try:
            found[name] = losses_of(RankedEngine(config), config, folder)
        except SlimtabError as error:
            found[name] = str(error)
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return values(run_ranks(2, ranked, list(methods()), False, tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    return values(run_ranks(2, ranked, SPREAD, True, tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in DRAWING])
def test_two_ranks_step_as_one_process_does(together, name):
    """The default optimizer, which fbgemm lacks, on rows that stand on both ranks.

    Also where a lookup learns from all ids of a batch; int16 rounds at random, by steps that hardly matter.
    """
    config = settings(name, spread=False)
    alone = losses_of(Engine(), config, None)
    assert together[0][name] == together[1][name]
    assert together[0][name] == pytest.approx(alone, abs=1e-3 if name == "int16" else 1e-5)


@pytest.mark.parametrize("name", DRAWING)
def test_ranks_that_draw_at_random_stay_alike(together, name):
    """What both hold is the same afterwards, or the losses would be a message."""
    assert isinstance(together[0][name], list)
    assert together[0][name] == together[1][name]


@pytest.mark.parametrize("name", SPREAD)
def test_rows_spread_over_ranks_step_as_rows_of_one_process(spread, name):
    """fbgemm's fused optimizer, under decay, with rows that one-hot and multi-hot features share."""
    config = settings(name, spread=True)
    alone = losses_of(Engine(), config, None)
    assert spread[0][name] == spread[1][name]
    assert spread[0][name] == pytest.approx(alone, abs=1e-5)
