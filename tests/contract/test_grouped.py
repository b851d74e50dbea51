"""The contract, for several methods under one budget."""

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimtab.collection import TableCollection
from slimtab.config import Rule
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.grouped import size_table
from slimtab.tables.groups import GroupedConfig
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.contract import SIZES, TableContract


class GroupedContract(TableContract):
    """The method is that of the features no rule takes; rules are no option of it."""

    rules: ClassVar[list[Rule]]

    def build(self, make_rows: Any = None, seed: int = 0, init_std: float = 0.1) -> TableCollection:
        torch.manual_seed(seed)
        return TableCollection.build(
            self.schema.features,
            self.dim,
            self.method,
            self.budget,
            self.options,
            make_rows or FusedRowsFactory(RowOptimizer(lr=0.02)),
            init_std,
            counts={f.name: torch.arange(f.num_ids, 0, -1).numpy() for f in self.schema.features},
            rules=self.rules,
        )

    def smallest(self, features: Any, dim: int) -> int:
        rules = [*self.rules, Rule(self.method, 0, self.options)]
        return GroupedConfig.smallest_bytes(features, dim, rules=rules)

    def counted(self, features: Any, dim: int, nbytes: int) -> int:
        make = size_table(features, dim, nbytes, self.method, self.options, self.rules)
        with torch.device("meta"):
            table = make(PlainRows, 0.1)
            for stage in table.stages[1:]:
                table.set_stage(stage)
            return table.freeze().serve_bytes()

    def may_waste(self, counted: int, nbytes: int, features: Any, dim: int) -> bool:
        """Each group may leave a step of one row, and bytes below a twentieth of its own are not moved."""
        return nbytes - counted < 0.05 * nbytes + 2 * 4 * dim

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.differing_executors])
    @given(sizes=SIZES, dim=st.sampled_from([4, 16, 64]), share=st.floats(0.001, 1.0))
    def test_budget_is_kept_and_used(self, sizes: list[int], dim: int, share: float) -> None:
        features = [Feature(f"C{number}", size) for number, size in enumerate(sizes)]
        nbytes = max(self.smallest(features, dim), int(share * 4 * dim * sum(sizes)))
        counted = self.counted(features, dim, nbytes)
        assert counted <= nbytes
        if counted < 0.95 * nbytes:
            unlimited = self.counted(features, dim, 100 * 4 * dim * sum(sizes) + 10**6)
            assert counted == unlimited or self.may_waste(counted, nbytes, features, dim)

    @settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.differing_executors])
    @given(sizes=SIZES, dim=st.sampled_from([4, 16, 64]))
    def test_smallest_size_is_real_and_named(self, sizes: list[int], dim: int) -> None:
        features = [Feature(f"C{number}", size) for number, size in enumerate(sizes)]
        smallest = self.smallest(features, dim)
        assert self.counted(features, dim, smallest) <= smallest
        with pytest.raises(SlimtabError, match=f"cannot fit .*{smallest} bytes"):
            self.counted(features, dim, smallest - 1)


class TestLargeHashedRestFull(GroupedContract):
    method = "full"
    budget = "30%"
    rules = [Rule("hash", 300, {"probes": 2})]


class TestThreeMethods(GroupedContract):
    """Narrower rows in one group, a projection in another."""

    method = "full"
    budget = "30%"
    rules = [Rule("unified", 2500, {"probes": 2, "project": True}), Rule("cafe", 100, {"threshold": 1.0})]
