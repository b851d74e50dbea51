"""The contract, for tensor trains."""

from slimtab.tables.tt import TTConfig, core_floats, useful_rank
from slimtab.testing.contract import TableContract


class TestTT(TableContract):
    method = "tt"
    tolerance = 1e-5  # sums of many products, in another order

    def may_waste(self, counted, nbytes, features, dim):
        """Whether the next rank is too large, or no rank above adds anything to any feature."""
        sizes = [feature.num_ids for feature in features]
        rank = TTConfig.for_budget(features, dim, nbytes).rank
        following = 4 * sum(min(n * dim, core_floats(n, dim, rank + 1)) for n in sizes)
        return following > nbytes or useful_rank(sizes, dim, rank + 1) == rank


class TestTTSmall(TestTT):
    budget = "5%"
    spread = 0.3  # three ranks of few rows each
