"""Plans as rules: sizes kept, words that say why."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.planning.options import FULL, codes_for, ladder_for
from slimtab.planning.plan import Plan
from slimtab.schema import Feature
from slimtab.tables.base import in_last_stage
from slimtab.tables.grouped import size_table
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.rq import RQ

FEATURES = [Feature("user", 40_000), Feature("item", 5_000), Feature("day", 7)]
DIM = 16
BYTES = 4 * DIM * sum(feature.num_ids for feature in FEATURES)


def coded(budget, *scales):
    """Rows of each feature as large as its scale, before codes are chosen for them."""
    torch.manual_seed(0)
    codes = RQ(codes_for(FEATURES, DIM, budget), FEATURES, DIM, PlainRows, 1.0)
    with torch.no_grad():
        each = torch.tensor(scales).repeat_interleave(torch.tensor([f.num_ids for f in FEATURES]))
        codes.rows.weight *= each[:, None]
    return codes


class Mixtures:
    """A model whose features lose a third as much with each eight bits, whatever the others do."""

    features, dim, noise = FEATURES, DIM, 0.0

    def __init__(self, budget, *scales):
        self.scales, self.ladder = scales, ladder_for(coded(budget, 1.0, 2.0, 0.1))

    def losses(self, steps):
        """Of a thousand rows, which feel coarse codes differently where there is noise."""
        felt = np.random.default_rng(sum(steps)).standard_normal(1000) * self.noise
        return self._at(steps).sum() * (1 + felt)

    def sensitivity(self, steps, told=lambda: None):
        every = np.array([self._at([step] * len(FEATURES)) for step in range(len(self.ladder.options))]).T
        return every - self._at(steps)[:, None]

    def _at(self, steps):
        bits = [self._bits(slot, step) for slot, step in enumerate(steps)]
        return np.array([scale * 3.0 ** (-b / 8) for scale, b in zip(self.scales, bits, strict=True)])

    def _bits(self, slot, step):
        option = self.ladder.options[step]
        if option == FULL:
            return 64
        if option.own:
            bits, levels = option.codes.shapes[slot]
            return bits * levels
        return sum(option.codes.levels)


def trained(plan, budget):
    """The table that a plan's rules make."""
    table = size_table(FEATURES, DIM, budget, "auto", rules=plan.rules())(PlainRows, 0.1)
    for stage in table.stages[1:]:
        table.choose(stage)
        table.set_stage(stage)
    return table


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.6])
def test_rules_make_a_table_of_the_size_planned(share):
    """Every byte is within the budget; before and after it is trained the table is as large as planned."""
    budget = int(share * BYTES)
    plan = Plan.make(Mixtures(budget, 0.1, 0.2, 0.001), budget)
    planned = plan.shared_bytes + sum(plan.nbytes(slot) for slot in range(len(FEATURES)))
    sized = in_last_stage(size_table(FEATURES, DIM, budget, "auto", rules=plan.rules())(PlainRows, 0.1))
    for table in (sized, trained(plan, budget)):
        # Codes of all features of a group stand in one buffer, which is padded once.
        assert abs(table.serve_bytes() - planned) <= 8 * len(FEATURES)
        assert table.serve_bytes() <= budget


def test_features_get_the_codes_that_were_planned():
    """Training does not choose others, where the plan moved away from what `rq` would choose."""

    class Apart(Mixtures):
        def _bits(self, slot, step):
            return super()._bits(slot, step) * self.ladder.options[step].own

    budget = int(0.1 * BYTES)
    plan = Plan.make(Apart(budget, 0.001, 0.2, 0.1), budget)
    assert plan.moved
    planned = {feature.name: plan.name(slot) for slot, feature in enumerate(FEATURES)}
    table = trained(plan, budget)
    got = {f.name: "{1} × {0} bits".format(*s) for f, s in zip(FEATURES, table.config.shapes, strict=True)}
    assert got == planned


def test_says_why():
    """Each line names what is lost, what a step less would cost, and what a step more would bring."""
    budget = int(0.1 * BYTES)
    plan = Plan.make(Mixtures(budget, 0.1, 0.2, 0.0), budget)
    head, *lines = plan.rows()
    assert head[0] == "feature"
    assert [line[0] for line in lines] == ["user", "item", "day"]
    assert "would lose" in lines[0][-1]
    assert "would gain" in lines[0][-1]
    assert "would change nothing" in lines[2][-1]


def test_what_changes_nothing_is_passed_over():
    """The reason of a step is the next one that matters, not one beside it that does as well."""

    class Flat(Mixtures):
        def sensitivity(self, steps, told=lambda: None):
            loss = np.zeros((len(FEATURES), len(self.ladder.options)))
            loss[:, 0] = 0.5
            return loss

        def losses(self, steps):
            return np.ones(1000)

    budget = int(0.1 * BYTES)
    plan = Plan.make(Flat(budget, 0.1, 0.2, 0.0), budget)
    smallest = plan.ladder.options[0].name(0)
    assert plan.rows()[1][-1].startswith(f"{smallest} would lose 0.50000 and save ")
    assert "full would change nothing for " in plan.rows()[1][-1]


def test_betters_the_best_that_treats_all_alike():
    budget = int(0.05 * BYTES)
    mixtures = Mixtures(budget, 0.1, 0.2, 0.001)
    plan = Plan.make(mixtures, budget)
    alike = [
        [step] * len(FEATURES)
        for step, option in enumerate(mixtures.ladder.options)
        if sum(option.nbytes(FEATURES, DIM)) + option.shared(DIM) <= budget
    ]
    assert alike
    assert mixtures.losses(plan.steps).mean() < min(mixtures.losses(steps).mean() for steps in alike)


class Level(Mixtures):
    """A model that loses nothing anywhere."""

    def losses(self, steps):
        return np.ones(1000)


@pytest.mark.parametrize(("scales", "own"), [((1.0, 2.0, 0.1), True), ((1.0, 1.0, 1.0), False)])
def test_begins_where_rq_would_be(scales, own):
    """What no measurement betters is what `rq` chooses by itself: codewords of one's own, or common ones."""
    budget = int(0.013 * BYTES)
    level = Level(budget, 0.1, 0.2, 0.001)
    level.ladder = ladder_for(coded(budget, *scales))
    plan = Plan.make(level, budget)
    assert not plan.moved
    assert len(plan.rules()) == 1
    codes = coded(budget, *scales)
    codes.choose("code")
    alone = codes.config
    assert bool(alone.own_bits) == own
    table = trained(plan, budget)
    assert table.config.shapes == alone.shapes
    assert table.config.levels == alone.levels or own


def test_moves_that_lose_together_are_not_made():
    """Each alone seems to gain; together they lose, as where features stand in for each other."""

    class Fooled(Mixtures):
        def losses(self, steps):
            return np.full(1000, 0.5 if tuple(steps) == self.ladder.start else 1.0)

    budget = int(0.05 * BYTES)
    assert not Plan.make(Fooled(budget, 0.001, 0.2, 0.1), budget).moved


def test_moves_are_made_where_they_gain_more_than_noise():
    """The same gain that is taken when rows agree on it is luck when they do not."""
    budget = int(0.05 * BYTES)
    sure, loud = (Mixtures(budget, 0.001, 0.2, 0.1) for _ in range(2))
    loud.noise = 30.0
    assert Plan.make(sure, budget).moved
    assert not Plan.make(loud, budget).moved


def test_a_budget_out_of_reach_is_named():
    with pytest.raises(SlimtabError, match="one bit for each id takes"):
        codes_for(FEATURES, DIM, 1000)
