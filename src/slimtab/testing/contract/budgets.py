"""Serving bytes: never above the budget, and close below it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import get_method, in_last_stage
from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.contract.setting import Setting

SIZES = st.lists(
    st.one_of(st.integers(1, 300), st.integers(1, 100_000), st.integers(1, 10**7)), min_size=1, max_size=60
)


class BudgetContract(Setting):
    """Tests of what a budget makes of any features, counted without building them."""

    def counted(self, features: list[Feature], dim: int, nbytes: int) -> int:
        """Return the bytes of what the budget makes, counted on the meta device."""
        table_type = get_method(self.method)
        config = table_type.Config.for_budget(features, dim, nbytes, **self.options)
        with torch.device("meta"):
            return in_last_stage(table_type(config, features, dim, PlainRows, 0.1)).freeze().serve_bytes()

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.differing_executors])
    @given(sizes=SIZES, dim=st.sampled_from([4, 8, 16, 32, 64, 128]), share=st.floats(0.001, 1.0))
    def test_budget_is_kept_and_used(self, sizes: list[int], dim: int, share: float) -> None:
        """Never above the budget, and at least 95 % of it where the method's steps allow."""
        features = [Feature(f"C{number}", size) for number, size in enumerate(sizes)]
        smallest = get_method(self.method).Config.smallest_bytes(features, dim, **self.options)
        nbytes = max(smallest, int(share * 4 * dim * sum(sizes)))
        counted = self.counted(features, dim, nbytes)
        assert counted <= nbytes
        if counted < 0.95 * nbytes:
            unlimited = self.counted(features, dim, 100 * 4 * dim * sum(sizes) + 10**6)
            assert counted == unlimited or self.may_waste(counted, nbytes, features, dim), (
                counted,
                nbytes,
            )

    @settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.differing_executors])
    @given(sizes=SIZES, dim=st.sampled_from([4, 16, 64]))
    def test_smallest_size_is_real_and_named(self, sizes: list[int], dim: int) -> None:
        """The error is an instruction: the size it names must work, and one byte less must not."""
        features = [Feature(f"C{number}", size) for number, size in enumerate(sizes)]
        config = get_method(self.method).Config
        smallest = config.smallest_bytes(features, dim, **self.options)
        assert self.counted(features, dim, smallest) <= smallest
        with pytest.raises(SlimtabError, match=f"cannot fit .*{smallest} bytes"):
            config.for_budget(features, dim, smallest - 1, **self.options)
