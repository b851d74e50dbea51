"""Plans as rules: sizes kept, words that say why."""

import numpy as np
import pytest

from slimtab.errors import SlimtabError
from slimtab.planning.options import ladder_for
from slimtab.planning.plan import Plan
from slimtab.schema import Feature
from slimtab.tables.base import in_last_stage
from slimtab.tables.grouped import size_table
from slimtab.tables.rows import PlainRows

FEATURES = [Feature("user", 40_000), Feature("item", 5_000), Feature("day", 7)]
DIM = 16
FULL = 4 * DIM * sum(feature.num_ids for feature in FEATURES)


class Mixtures:
    """A model whose features lose a third as much with each eight bits, whatever the others do."""

    features, dim, noise = FEATURES, DIM, 0.0

    def __init__(self, budget, *scales):
        self.scales, self.ladder = scales, ladder_for(FEATURES, DIM, budget)

    def losses(self, steps):
        """Of a thousand rows, which feel coarse codes differently where there is noise."""
        felt = np.random.default_rng(sum(steps)).standard_normal(1000) * self.noise
        return self._at(steps).sum() * (1 + felt)

    def sensitivity(self, steps, told=lambda: None):
        every = np.array([self._at([step] * len(FEATURES)) for step in range(len(self.ladder))]).T
        return every - self._at(steps)[:, None]

    def _at(self, steps):
        bits = [sum(self.ladder[step].levels) or 64 for step in steps]
        return np.array([scale * 3.0 ** (-b / 8) for scale, b in zip(self.scales, bits, strict=True)])


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.6])
def test_rules_make_a_table_of_the_size_planned(share):
    """Every byte is within the budget, and the table that the rules make is as large as planned."""
    budget = int(share * FULL)
    plan = Plan.make(Mixtures(budget, 0.1, 0.2, 0.001), budget)
    table = in_last_stage(size_table(FEATURES, DIM, budget, "auto", rules=plan.rules())(PlainRows, 0.1))
    planned = plan.shared_bytes + sum(
        plan.ladder[step].nbytes(f.num_ids, DIM) for f, step in zip(FEATURES, plan.steps, strict=True)
    )
    # Codes of all features of a group stand in one buffer, which is padded once.
    assert planned - 8 * len(FEATURES) <= table.serve_bytes() <= budget


def test_says_why():
    """Each line names what is lost, what a step less would cost, and what a step more would bring."""
    budget = int(0.1 * FULL)
    plan = Plan.make(Mixtures(budget, 0.1, 0.2, 0.0), budget)
    head, *lines = plan.rows()
    assert head[0] == "feature"
    assert [line[0] for line in lines] == ["user", "item", "day"]
    assert "would lose" in lines[0][-1]
    assert "would gain" in lines[0][-1]
    assert "would change nothing" in lines[2][-1]


def test_betters_the_best_that_treats_all_alike():
    budget = int(0.05 * FULL)
    mixtures = Mixtures(budget, 0.1, 0.2, 0.001)
    plan = Plan.make(mixtures, budget)
    alike = [
        [step] * len(FEATURES)
        for step, option in enumerate(mixtures.ladder)
        if sum(option.nbytes(f.num_ids, DIM) for f in FEATURES) + option.shared(DIM) <= budget
    ]
    assert mixtures.losses(plan.steps).mean() < min(mixtures.losses(steps).mean() for steps in alike)
    assert not plan.uniform


def test_what_treats_all_alike_uses_the_budget_up():
    """The plan begins where `rq` alone would be: no bits are left over for want of a step."""
    budget = int(0.13 * FULL)

    class Level(Mixtures):
        def losses(self, steps):
            return np.ones(1000)

    plan = Plan.make(Level(budget, 0.1, 0.2, 0.001), budget)
    assert plan.uniform
    table = in_last_stage(size_table(FEATURES, DIM, budget, "auto", rules=plan.rules())(PlainRows, 0.1))
    alone = in_last_stage(size_table(FEATURES, DIM, budget, "rq")(PlainRows, 0.1))
    assert table.serve_bytes() == alone.serve_bytes()


def test_moves_that_lose_together_are_not_made():
    """Each alone seems to gain; together they lose, as where features stand in for each other."""

    class Fooled(Mixtures):
        def losses(self, steps):
            return np.full(1000, 1.0 if len(set(steps)) > 1 else 0.5)

    budget = int(0.05 * FULL)
    assert Plan.make(Fooled(budget, 0.1, 0.2, 0.001), budget).uniform


def test_moves_within_the_noise_are_not_made():
    """The same gain that is taken when rows agree on it is luck when they do not."""
    budget = int(0.05 * FULL)
    loud = Mixtures(budget, 0.1, 0.2, 0.001)
    loud.noise = 30.0
    assert Plan.make(loud, budget).uniform


def test_a_budget_out_of_reach_is_named():
    with pytest.raises(SlimtabError, match="one bit for each id takes"):
        ladder_for(FEATURES, DIM, 1000)
