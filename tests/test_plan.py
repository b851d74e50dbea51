"""`plan`: bytes before training, and they are the bytes after it."""

import math
import time

import pytest
import torch

from slimtab.collection import TableCollection
from slimtab.config import OptimizerSettings
from slimtab.data.kaggle import CRITEO_KAGGLE
from slimtab.errors import SlimtabError
from slimtab.plan import describe_methods, plan, plan_ranks
from slimtab.schema import Feature
from slimtab.tables.base import methods
from slimtab.testing import fake_schema
from slimtab.training.optimizers import fused_rows, train_bytes

SCHEMA = fake_schema([10, 3000, 400], multi_hot=[50])
SETTINGS = [
    ("full", None, {}),
    ("hash", "10%", {"probes": 2}),
    ("unified", "10%", {}),
    ("unified", "50%", {"project": True}),
]


@pytest.mark.parametrize(("method", "budget", "options"), SETTINGS)
def test_planned_bytes_are_those_of_the_real_table(method, budget, options):
    """A plan that promises other bytes than training makes is worse than none."""
    planned = plan(SCHEMA, method, budget, 8, options)
    tables = TableCollection.build(
        SCHEMA.features, 8, method, budget, options, fused_rows(OptimizerSettings())
    )
    assert planned["full_bytes"] == 4 * 8 * 3460 == SCHEMA.full_bytes(8)
    assert planned["serve_bytes"] == tables.table.serve_bytes()
    assert planned["train_bytes"] == train_bytes(tables)
    assert planned["num_ids"] == 3460
    assert [f["name"] for f in planned["features"]] == ["C1", "C2", "C3", "M1"]
    assert sum(f["serve_bytes"] for f in planned["features"]) == planned["serve_bytes"]
    assert sum(f["full_bytes"] for f in planned["features"]) == planned["full_bytes"]


def test_nothing_is_allocated():
    """Four terabytes of tables are planned in a moment."""
    planned = plan(fake_schema([10**10, 10**6]), "full", None, 128)
    assert planned["serve_bytes"] == 4 * 128 * (10**10 + 10**6)
    with torch.device("cpu"):
        assert torch.zeros(1).device.type == "cpu"  # the meta device does not leak out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "fulll"}, "did you mean 'full'"),
        ({"method": "full"}, "cannot fit"),
        ({"options": {"x": 1}}, "no option 'x'"),
        ({"dim": 0}, "width 0"),
        ({"budget": "lots"}, "budget 'lots'"),
    ],
)
def test_errors_are_one_line(change, message):
    """Planning is where people try things out."""
    settings = {"method": "hash", "budget": "10%", "dim": 8, **change}
    with pytest.raises(SlimtabError, match=message):
        plan(SCHEMA, **settings)


def test_methods_are_described():
    """`slimtab methods --json`: design §6 names the keys."""
    listed = describe_methods()
    assert [entry["name"] for entry in listed] == list(methods())
    for entry in listed:
        assert set(entry) >= {"name", "class", "paper", "smallest_share", "stages"}
        assert 0 < entry["smallest_share"] <= 1
    assert next(entry for entry in listed if entry["name"] == "full")["smallest_share"] == 1


def test_the_smallest_share_can_be_had():
    """What the listing promises must be a budget that works."""
    features = [Feature(f"C{number}", size) for number, size in enumerate(CRITEO_KAGGLE)]
    for entry in describe_methods():
        nbytes = math.ceil(entry["smallest_share"] * 64 * sum(CRITEO_KAGGLE))
        methods()[entry["name"]].Config.for_budget(features, 16, nbytes)


class TestOverRanks:
    """A table of 64 MB with its accumulators of 4 MB: large enough to be spread, and never allocated."""

    SCHEMA = fake_schema([1_000_000])

    def figures(self, method="full", ranks=4, memory=10**9, budget=None):
        return plan_ranks(self.SCHEMA, method, budget, 16, None, (), ranks=ranks, memory=memory, batch=4096)

    def test_rows_are_spread_evenly(self):
        one, four = self.figures(ranks=1), self.figures(ranks=4)
        assert one["rows_bytes"] >= 68e6
        assert four["rows_bytes"] == pytest.approx(one["rows_bytes"] / 4, rel=0.1)
        assert one["traffic_bytes"] == 0 < four["traffic_bytes"]

    def test_what_does_not_fit_names_the_ranks_that_would_do(self):
        with pytest.raises(SlimtabError, match="take at least 4 ranks"):
            self.figures(ranks=2, memory=22 * 10**6)
        assert self.figures(ranks=4, memory=22 * 10**6)["ranks"] == 4

    def test_a_method_that_reads_all_its_rows_holds_them_on_every_rank(self):
        assert self.figures("rq", budget="20%")["replicated_bytes"] > 68e6
        with pytest.raises(SlimtabError, match="rq does not spread"):
            self.figures("rq", budget="20%", memory=50 * 10**6)

    def test_it_takes_no_longer_for_a_hundred_billion_ids(self):
        """No loop over rows, and no more tables for the planner to place than it can place in seconds."""
        began = time.monotonic()
        schema = fake_schema([25_000_000_000] * 4)
        figures = plan_ranks(schema, "full", None, 16, None, (), ranks=128, memory=80 * 10**9, batch=65_536)
        assert figures["rows_bytes"] == pytest.approx(100e9 * 68 / 128, rel=0.1)
        assert time.monotonic() - began < 30  # 2 s with the machine to itself; all rows drawn take minutes
