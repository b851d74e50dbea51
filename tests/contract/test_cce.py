"""The contract, for clustered pointers."""

from slimtab.schema import Feature
from slimtab.tables.cce import CCEConfig
from slimtab.testing.contract import TableContract


class TestCCE(TableContract):
    method = "cce"

    def may_waste(self, counted: int, nbytes: int, features: list[Feature], dim: int) -> bool:
        """One more row may need one more bit in every pointer."""
        config = CCEConfig.for_budget(features, dim, nbytes, **self.options)
        assert isinstance(config, CCEConfig)
        return CCEConfig(config.rows + 1, config.columns).nbytes(features, dim) > nbytes


class TestCCETwoColumns(TestCCE):
    options = {"columns": 2, "clusterings": 1}
