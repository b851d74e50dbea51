"""How codebooks are used, against counts made by hand."""

import numpy as np
import pytest
import torch

from slimtab.schema import Feature
from slimtab.tables.base import in_last_stage
from slimtab.tables.grouped import size_table
from slimtab.tables.parts.usage import CodeUse
from slimtab.tables.rows.plain import PlainRows

FEATURES = [Feature("C1", 10), Feature("C2", 4000)]


def test_shares_and_entropy():
    """Two places: one uses half its four codes evenly, the other both of two unevenly; in two helpings."""
    used = CodeUse([4, 2])
    used.add(torch.tensor([[0, 0], [0, 0]]))
    used.add(torch.tensor([[3, 0], [3, 1]]))
    stats = used.stats()
    assert stats["codes_used"] == pytest.approx(4 / 6)
    second = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert stats["code_entropy"] == pytest.approx((0.5 + second) / 2)


@pytest.mark.parametrize("method", ["rq", "dpq", "mgqe"])
def test_served_codes_are_counted(method):
    """When every coded id has the same row, one code in each place stands for all, or one for each tier."""
    torch.manual_seed(0)
    table = size_table(FEATURES, 8, 30_000, method)(PlainRows, 0.1)
    table = in_last_stage(table)
    spread = table.freeze().stats()
    assert 0.5 < spread["code_entropy"] <= 1
    assert 0.2 < spread["codes_used"] <= 1
    table.rows.assign(torch.full_like(table.rows.values(), 0.05))
    alike = table.freeze().stats()
    assert alike["code_entropy"] < (0.1 if method == "mgqe" else 1e-9)
    assert 0 < alike["codes_used"] < spread["codes_used"]
