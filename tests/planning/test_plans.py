"""Plans as rules: sizes kept, words that say why."""

import numpy as np
import pytest

from slimtab.errors import SlimtabError
from slimtab.planning.options import LADDER
from slimtab.planning.plan import Plan
from slimtab.schema import Feature
from slimtab.tables.base import in_last_stage
from slimtab.tables.grouped import size_table
from slimtab.tables.rows import PlainRows

FEATURES = [Feature("user", 40_000), Feature("item", 5_000), Feature("day", 7)]
DIM = 16
FULL = 4 * DIM * sum(feature.num_ids for feature in FEATURES)


class Mixtures:
    """A model whose features lose a third as much with each step, whatever the others do."""

    features, dim = FEATURES, DIM

    def __init__(self, *scales):
        self.scales = scales

    def loss(self, steps):
        return float(self.sensitivity(steps)[range(len(steps)), steps].sum() + self._at(steps).sum())

    def sensitivity(self, steps, told=lambda: None):
        every = np.array([self._at([step] * len(FEATURES)) for step in range(len(LADDER))]).T
        return every - self._at(steps)[:, None]

    def _at(self, steps):
        return np.array([scale * 3.0**-step for scale, step in zip(self.scales, steps, strict=True)])


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.6])
def test_rules_make_a_table_of_the_size_planned(share):
    """Every byte is within the budget, and the table that the rules make is as large as planned."""
    budget = int(share * FULL)
    plan = Plan.make(Mixtures(0.1, 0.2, 0.001), budget)
    table = in_last_stage(size_table(FEATURES, DIM, budget, "auto", rules=plan.rules())(PlainRows, 0.1))
    planned = plan.shared_bytes + sum(
        LADDER[step].nbytes(f.num_ids, DIM) for f, step in zip(FEATURES, plan.steps, strict=True)
    )
    # Codes of all features of a group stand in one buffer, which is padded once.
    assert planned - 8 * len(FEATURES) <= table.serve_bytes() <= budget


def test_says_why():
    """Each line names what is lost, what a step less would cost, and what a step more would bring."""
    plan = Plan.make(Mixtures(0.1, 0.2, 0.0), int(0.1 * FULL))
    head, *lines = plan.rows()
    assert head[0] == "feature"
    assert [line[0] for line in lines] == ["user", "item", "day"]
    assert "would lose" in lines[0][-1]
    assert "would gain" in lines[0][-1]
    assert "would change nothing" in lines[2][-1]


def test_betters_the_best_that_treats_all_alike():
    mixtures, budget = Mixtures(0.1, 0.2, 0.001), int(0.05 * FULL)
    plan = Plan.make(mixtures, budget)
    alike = [
        step
        for step, option in enumerate(LADDER)
        if sum(option.nbytes(f.num_ids, DIM) for f in FEATURES) + option.shared(DIM) <= budget
    ]
    assert mixtures.loss(plan.steps) < min(mixtures.loss([step] * len(FEATURES)) for step in alike)


def test_moves_that_lose_together_are_not_made():
    """Each alone seems to gain; together they lose, as where features stand in for each other."""

    class Fooled(Mixtures):
        def loss(self, steps):
            return 1.0 if len(set(steps)) > 1 else 0.5

    plan = Plan.make(Fooled(0.1, 0.2, 0.001), int(0.05 * FULL))
    assert len(set(plan.steps)) == 1


def test_a_budget_out_of_reach_is_named():
    with pytest.raises(SlimtabError, match="two bits for each id take"):
        Plan.make(Mixtures(1, 1, 1), 1000)
