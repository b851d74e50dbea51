"""The contract, for blocks of rows that are shared after training."""

from slimtab.schema import Feature
from slimtab.testing.contract import TableContract


class TestDedup(TableContract):
    method = "dedup"

    def may_waste(self, counted: int, nbytes: int, features: list[Feature], dim: int) -> bool:
        """Whether not one block more fits, which may take another bit for each entry of the index."""
        block = self.options.get("block", 2)
        blocks = sum(-(-feature.num_ids // block) for feature in features)
        return nbytes - counted < 4 * dim * block + blocks // 8 + 8


class TestDedupSingleRows(TestDedup):
    options = {"block": 1}
