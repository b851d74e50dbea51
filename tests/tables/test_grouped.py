"""Several methods under one budget: each group is what it would be alone, the bytes are shared out well."""

import dataclasses
import json
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from slimtab.collection import TableCollection
from slimtab.config import Rule, build_config, load_config
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.plan import plan
from slimtab.run import train_run
from slimtab.schema import Feature
from slimtab.serving.freeze import load_frozen
from slimtab.tables import base
from slimtab.tables.base import EmbeddingTable, FrozenTable, TableConfig, get_method, in_last_stage
from slimtab.tables.full import Full
from slimtab.tables.grouped import Grouped, read_config, size_table
from slimtab.tables.groups import divide
from slimtab.tables.hash import Hash
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing import fake_schema
from slimtab.training.metrics import evaluate

DIM = 8
FEATURES = [Feature("a", 50), Feature("b", 9000), Feature("c", 400), Feature("d", 20_000)]
FULL = 4 * DIM * sum(feature.num_ids for feature in FEATURES)


def build(rules, nbytes=FULL // 4, method="full", features=FEATURES, **options):
    torch.manual_seed(0)
    return size_table(features, DIM, nbytes, method, options, rules)(PlainRows, 0.1)


@pytest.fixture
def registry():
    """Methods defined in a test are forgotten after it."""
    known = dict(base._METHODS)
    yield
    base._METHODS.clear()
    base._METHODS.update(known)


class NarrowFrozen(FrozenTable):
    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, ids, slot):
        return self.weight[ids % len(self.weight)]

    def project(self, pooled):
        return pooled.repeat(1, 1, 4)


def define_narrow():
    """A table of 10 rows of two numbers, in three stages, with everything a method may have."""

    class Narrow(EmbeddingTable, method="narrow"):
        kind, paper = "test", "none"
        stages = ("first", "second", "third")

        @dataclasses.dataclass(frozen=True)
        class Config(TableConfig):
            @classmethod
            def smallest_bytes(cls, features, dim, **options):
                return 80

            @classmethod
            def _largest(cls, features, dim, nbytes, **options):
                return cls()

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.width = 2
            self.weight = nn.Parameter(torch.randn(10, 2))
            self.counts, self.seen = None, []

        def lookup(self, ids, slot):
            return self.weight[ids % 10]

        def project(self, pooled):
            return pooled.repeat(1, 1, 4)

        def freeze(self):
            return NarrowFrozen(self.weight.detach().clone())

        def penalty(self):
            return self.weight.sum()

        def row_like(self):
            return [(self.weight, 2)]

        def use_counts(self, counts):
            self.counts = counts

        def on_step(self, clock):
            self.seen.append(clock)

        def learning_rates(self):
            return 0.5, 0.25 if self.stage == "third" else 1.0

        def stats(self):
            return {"rows": 10.0}

    return Narrow


def test_each_feature_is_served_by_its_own_method():
    """The reference: the group's table alone, asked feature by feature."""
    table = build([Rule("unified", 10_000), Rule("hash", 1000)])
    kinds = [type(group).__name__ for group in table.tables]
    assert kinds == ["Unified", "Hash", "Full"]
    served_by = {0: (2, 0), 1: (1, 0), 2: (2, 1), 3: (0, 0)}
    for slot, (number, inside) in served_by.items():
        ids = torch.randint(0, FEATURES[slot].num_ids, (30,))
        alone = table.tables[number](ids, torch.full_like(ids, inside))
        for form in (table, table.freeze()):
            assert torch.equal(form(ids, torch.full_like(ids, slot)), alone)


def test_ids_of_all_groups_in_one_batch_come_back_in_place():
    """Training splits a batch by group and puts it together again; gradients go to the right rows."""
    table = build([Rule("hash", 1000)])
    slot = torch.randint(0, 4, (200,))
    ids = (torch.rand(200) * torch.tensor([50, 9000, 400, 20_000])[slot]).long()
    vectors = table(ids, slot)
    assert torch.equal(vectors.detach(), table.freeze()(ids, slot))
    one_by_one = torch.cat([table(ids[i : i + 1], slot[i : i + 1]) for i in range(200)])
    gradient = torch.randn(200, DIM)
    grads = []
    for out in (vectors, one_by_one):
        table.zero_grad()
        out.backward(gradient)
        grads.append([part.rows.weight.grad.clone() for part in table.tables])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_the_first_rule_that_fits_wins():
    """Rules are read from the top, as people write them."""
    table = build([Rule("hash", 1000), Rule("unified", 10_000)])
    assert [(group.method, group.slots) for group in table.groups] == [("hash", (1, 3)), ("full", (0, 2))]


def test_one_group_needs_no_grouping():
    """A rule for all, or for none: the plain table, at full speed."""
    assert type(build([Rule("hash", 0, {"probes": 2})])) is Hash
    assert type(build([Rule("hash", 10**9)], FULL)) is Full


def test_full_groups_take_what_they_need_and_others_the_rest():
    """One budget over all."""
    table = build([Rule("unified", 10_000), Rule("hash", 1000)], FULL // 4)
    unified, hashed, full = [part.serve_bytes() for part in table.tables]
    assert full == 4 * DIM * 450
    left = FULL // 4 - full
    assert unified == pytest.approx(left * 20 / 29, rel=0.01)
    assert hashed == pytest.approx(left * 9 / 29, rel=0.01)
    assert FULL // 4 * 0.99 < table.serve_bytes() <= FULL // 4


def test_bytes_a_fixed_size_leaves_go_to_the_others(registry):
    """Otherwise a grouped table of 25 % would be one of 10 %."""
    define_narrow()
    table = build([Rule("narrow", 10_000), Rule("hash", 1000)], 4 * DIM * 8000)
    assert table.tables[0].serve_bytes() == 80
    assert table.serve_bytes() > 0.99 * 4 * DIM * 8000


def test_dividing():
    """By the bytes of the full tables, but no group below its smallest size."""
    assert divide(100, [300, 100], [1, 1], {}) == [75, 25]
    assert divide(100, [300, 100], [1, 60], {}) == [40, 60]
    assert divide(100, [300, 100, 50], [1, 1, 50], {2: 50}) == [37, 12, 50]
    assert divide(100, [990, 5, 5], [80, 9, 9], {}) == [82, 9, 9]
    assert sum(divide(98, [990, 5, 5], [80, 9, 9], {})) == 98


def test_a_budget_that_is_too_small_names_the_smallest():
    """Of all groups together."""
    with pytest.raises(SlimtabError, match=r"these rules cannot fit 1 KB \(1000 bytes\).*\(14496 bytes\)"):
        build([Rule("hash", 1000)], 1000)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([Rule("hasj", 10)], "no method 'hasj'"),
        ([Rule("hash", 1000, {"probe": 2})], "no option 'probe'; did you mean 'probes'"),
    ],
)
def test_wrong_rules_are_one_line(rules, message):
    """As for the method itself."""
    with pytest.raises(SlimtabError, match=message):
        build(rules)


def test_widths_stages_and_hooks_reach_each_group(registry):
    """A narrower group is padded and projected by itself; stages advance where there are more."""
    define_narrow()
    table = build([Rule("narrow", 10_000), Rule("hash", 1000)], FULL // 4)
    narrow = table.tables[0]
    assert table.width == DIM
    assert table.stages == ("first+train", "second+train", "third+train")
    ids, slot = torch.tensor([15, 3]), torch.tensor([3, 1])
    assert table(ids, slot)[0].tolist() == [*narrow.weight[5].tolist(), 0, 0, 0, 0, 0, 0]
    pooled = torch.randn(5, 4, DIM)
    for form in (table, table.freeze()):
        projected = form.project(pooled)
        assert torch.equal(projected[:, 3], pooled[:, 3, :2].repeat(1, 4))
        assert torch.equal(projected[:, :3], pooled[:, :3])
    table.use_counts(torch.arange(29_450))
    assert narrow.counts.tolist() == list(range(9450, 29_450))
    table.on_step(base.Clock(1, 2, 3))
    assert narrow.seen == [base.Clock(1, 2, 3)]
    assert torch.equal(table.penalty(), narrow.weight.sum())
    assert table.row_like() == [(narrow.weight, 2)]
    assert table.learning_rates() == (0.5, 1.0)
    in_last_stage(table)
    assert [part.stage for part in table.tables] == ["third", "train", "train"]
    assert (table.stage, table.learning_rates()) == ("third+train", (0.5, 0.25))
    assert table.stats()["0_narrow/rows"] == 10
    assert build([Rule("hash", 1000)]).penalty() is None
    nbytes = table.bytes_by_feature()
    assert (nbytes[3], nbytes[0], sum(nbytes)) == (80, 4 * DIM * 50, table.serve_bytes())


def test_a_group_refuses_hashed_ids_where_its_method_does():
    """Grouping must not hide it."""
    features = [Feature("a", 50), Feature("b", 9000, "hash")]
    assert type(build([Rule("hash", 1000)], features=features, nbytes=20_000)) is Grouped
    with pytest.raises(SlimtabError, match="feature 'b' has hashed ids, and full needs"):
        build(
            [Rule("full", 1000)],
            method="hash",
            features=features,
            nbytes=300_000,
        )


def test_sizing_is_quick():
    """`slimtab plan` answers at once for sixty features of ten million ids."""
    features = [Feature(f"C{n}", 10**7 if n % 2 else 500) for n in range(60)]
    started = time.perf_counter()
    size_table(features, 16, 10**9, "full", {}, [Rule("hash", 1000)])
    assert time.perf_counter() - started < 1.0


def test_configs_survive_json():
    """model.json rebuilds the table."""
    table = build([Rule("unified", 10_000), Rule("hash", 1000, {"probes": 2})])
    plain = json.loads(json.dumps(dataclasses.asdict(table.config)))
    kind, config = read_config(table.method, plain)
    assert (kind, config) == (Grouped, table.config)
    assert read_config("hash", {"rows": [3, 4], "probes": 2}) == (Hash, get_method("hash").Config((3, 4), 2))


RULES = [{"min_ids": 80, "method": "hash", "options": {"probes": 2}}]


def test_rules_in_a_config_file(tmp_path):
    """`table.rules` is read, checked, saved and read again."""
    (tmp_path / "c.yaml").write_text(
        "table: {method: full, budget: 30%, rules: [{min_ids: 300, method: hash, options: {probes: 2}}]}\n"
    )
    config = load_config(tmp_path / "c.yaml", {})
    assert config.table.rules == [Rule("hash", 300, {"probes": 2})]
    config.save(tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml", {}) == config
    given = load_config(None, {}, ["table.rules=[{min_ids: 300, method: hash, options: {probes: 2}}]"])
    assert given.table.rules == config.table.rules


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"min_id": 3, "method": "qr"}], r"no key 'table.rules.0.min_id'; did you mean 'min_ids'"),
        ([{"min_ids": "many", "method": "qr"}], "min_ids"),
        ([{"min_ids": 3}], "method"),
        (["qr"], "table.rules.0"),
        ({"min_ids": 3}, "rules"),
    ],
)
def test_wrong_rules_in_a_config(rules, message):
    """One line, naming the key."""
    with pytest.raises(SlimtabError, match=message) as caught:
        build_config({"table": {"rules": rules}})
    assert "\n" not in str(caught.value)


def test_a_run_with_rules_repeats_and_serves(prepared, tmp_path):
    """Training, config.yaml, metrics, the frozen folder: nothing on the way loses the rules."""
    settings = {
        "data": str(prepared.data),
        "run": str(tmp_path / "a"),
        "model": {"name": "deepfm", "options": {"mlp": [16]}},
        "table": {"method": "full", "budget": "60%", "dim": 8, "rules": RULES},
        "training": {"batch_size": 200, "epochs": 1, "threads": 1},
    }
    metrics = train_run(build_config(settings))
    assert metrics["method"] == "grouped"
    kept = metrics["settings"]["table"]["rules"]
    assert [{key: rule[key] for key in given} for rule, given in zip(kept, RULES, strict=True)] == RULES
    assert metrics["serve_bytes"] <= metrics["budget_bytes"]
    rules = [Rule(**rule) for rule in RULES]
    planned = plan(prepared.schema, "full", "60%", 8, rules=rules)
    assert planned["serve_bytes"] == metrics["serve_bytes"]
    again = train_run(load_config(tmp_path / "a" / "config.yaml", {"run": str(tmp_path / "b")}))
    assert again["test"] == metrics["test"]
    model, _ = load_frozen(tmp_path / "a" / "frozen")
    test = evaluate(model, Loader(prepared.data, "test", 800, shuffle=False))
    assert test.auc == pytest.approx(metrics["test"]["auc"], abs=1e-9)
    stored = load_file(tmp_path / "a" / "frozen" / "tables.safetensors")
    assert sum(t.numel() * t.element_size() for t in stored.values()) == metrics["serve_bytes"]


def test_multi_hot_features_in_groups():
    """Slots of a collection stand one-hot first; rules look at sizes, not at places."""
    schema = fake_schema([30, 5000], multi_hot=[4000, 20])
    tables = TableCollection.build(schema.features, DIM, "full", "30%", rules=[Rule("unified", 1000)])
    assert [group.slots for group in tables.table.groups] == [(1, 2), (0, 3)]
