"""The contract, for learned soft thresholds."""

import pytest
import torch

from slimtab.tables.rows.plain import PlainRows
from slimtab.testing.contract import TableContract
from slimtab.testing.training import every_id


class TestPEP(TableContract):
    method = "pep"

    def test_start_values_have_the_asked_variance(self):
        """As training sees them: eval shows what a cut to the budget would leave already."""
        table = self.table(self.build(PlainRows)).train()
        with torch.no_grad():
            assert float(table(*every_id(table)).std()) == pytest.approx(0.1, rel=self.spread)
