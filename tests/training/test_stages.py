"""Stages that choose, rewind, and learn from validation rows, with a table made for it."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from slimtab.collection import TableCollection
from slimtab.config import load_config
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.models.base import build_model
from slimtab.tables import base
from slimtab.tables.full import Full, FullConfig
from slimtab.testing import fake_dataset, fake_schema
from slimtab.training.optimizers import fused_rows
from slimtab.training.trainer import Trainer

SCHEMA = fake_schema([10, 300], numerics=2)


@dataclass(frozen=True)
class ChoosyConfig(FullConfig):
    by_budget = ("chosen",)
    chosen: int = 0


class Choosy(Full):
    """A full table that remembers a number, has a gate that validation rows move, and starts over."""

    method = "choosy"
    stages = ("look", "live")
    rewinds = ("live",)
    Config = ChoosyConfig

    def __init__(self, *args):
        super().__init__(*args)
        self.gate, self.plain = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(16))
        self.register_buffer("mask", None)

    def lookup(self, ids, slot):
        return super().lookup(ids, slot) * self.gate * self.plain

    def by_validation(self):
        return [(self.gate, 0.1)] if self.stage == "look" else []

    def by_sgd(self):
        return [(self.plain, 0.1)]

    def choose(self, stage):
        self.config = replace(self.config, chosen=int(1000 * self.gate[0].item()))
        self.mask = self.gate.detach().clone()

    def set_stage(self, stage):
        if self.mask is None:
            self.mask = torch.zeros(16)
        super().set_stage(stage)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """Known while these tests run alone: others look at the whole registry."""
    monkeypatch.setitem(base._METHODS, Choosy.method, Choosy)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    fake_dataset(folder, SCHEMA, {"train": 400, "valid": 200, "test": 50})
    return folder


def make(data, folder, choose=None, held_out=True):
    config = load_config(None, {}, ["training.batch_size=50", "training.epochs=2", "training.patience=5"])
    train = Loader(data, "train", 50, shuffle=True)
    torch.manual_seed(0)
    tables = TableCollection.build(
        SCHEMA.features, 16, Choosy.method, make_rows=fused_rows(config.optimizer, len(train))
    )
    model = build_model("deepfm", tables, 2, {"mlp": [8]})
    valid = Loader(data, "valid", 200, shuffle=False)
    other = Loader(data, "valid", 50, shuffle=True) if held_out else None
    return Trainer(model, train, valid, config, folder, (), other, choose)


def test_a_stage_begins_from_start_values_with_what_was_chosen(data, tmp_path):
    trainer = make(data, tmp_path)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    seen = {}

    def look(table, stage):
        seen.update({n: v.clone() for n, v in trainer.model.state_dict().items()})
        Full.set_stage(table, stage)

    Choosy_set, Choosy.set_stage = Choosy.set_stage, look
    try:
        trainer.fit()
    finally:
        Choosy.set_stage = Choosy_set
    assert all(torch.equal(seen[name], value) for name, value in start.items())
    assert trainer.table.config.chosen == int(1000 * float(seen["tables.table.mask"][0])) != 1000


def test_validation_rows_alone_move_the_gate(data, tmp_path):
    """The gate follows plain SGD on validation batches; training batches leave it."""
    trainer = make(data, tmp_path)
    before = trainer.table.gate.detach().clone()
    batch = next(iter(trainer.train_rows))
    trainer._backward(batch)
    trainer.optimizers.step()
    assert torch.equal(trainer.table.gate, before)
    trainer.optimizers.zero_grad()
    packed = trainer.table.rows.packed.clone()
    trainer._backward(next(trainer._held_out_batches))
    expected = before - 0.1 * trainer.table.gate.grad
    trainer.optimizers.step_on_validation()
    torch.testing.assert_close(trainer.table.gate.detach(), expected)
    assert torch.equal(trainer.table.rows.packed, packed)
    assert trainer.table.plain.grad is None


def test_without_validation_rows_it_says_so(data, tmp_path):
    with pytest.raises(SlimtabError, match="learns from validation rows"):
        make(data, tmp_path, held_out=False)


def test_killed_while_choosing_it_chooses_again_and_ends_the_same(data, tmp_path):
    """The search between two stages may take hours: what came before it is not trained again."""
    whole = make(data, tmp_path / "a")
    whole.fit()

    def killed(model, stage):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(data, tmp_path / "b", killed).fit()
    again = make(data, tmp_path / "b")
    steps = []
    again.choose = lambda model, stage: (steps.append(again.step), model.tables.table.choose(stage))
    again.fit()
    assert steps == [16]
    one, other = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert again.table.config == whole.table.config


def test_killed_in_the_later_stage_it_keeps_what_was_chosen(data, tmp_path):
    """The checkpoint holds the config that was filled in."""
    whole, other = make(data, tmp_path / "a"), make(data, tmp_path / "b")
    whole.fit()
    calls = []

    def stop(clock):
        calls.append(clock)
        if len(calls) == 27:
            raise KeyboardInterrupt

    other.table.on_step = stop
    with pytest.raises(KeyboardInterrupt):
        other.fit()
    again = make(data, tmp_path / "b")
    again.fit()
    one, two = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert again.table.config == whole.table.config


def test_rows_that_outlive_a_stage_get_their_rate_back(data, tmp_path):
    """Rates fall at the end of a stage, of that stage alone: the next would hardly move them."""
    trainer = make(data, tmp_path)
    start, rates = trainer.table.rows.lr, []
    trainer.table.on_step = lambda clock: rates.append(trainer.table.rows.lr)
    trainer.fit()
    assert rates.count(start) > len(trainer.table.stages)
    assert min(rates) < 0.5 * start
    fell = rates.index(min(rates))
    assert start in rates[fell:]
