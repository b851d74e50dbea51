"""The contract, for residual codes."""

from slimtab.tables.rq import RQConfig
from slimtab.testing.contract import TableContract


class TestRQ(TableContract):
    method = "rq"
    budget = "12%"
    tolerance = 1e-6

    def may_waste(self, counted, nbytes, features, dim):
        """A step adds a bit to every id, and may double a codebook: the next one does not fit."""
        ids = sum(feature.num_ids for feature in features)
        sizes = [config.serve_bytes(ids, dim) for config in RQConfig.ladder(dim)]
        return all(size == counted or size > nbytes for size in sizes if size >= counted)
