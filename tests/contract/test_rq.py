"""The contract, for residual codes."""

from slimtab.tables.rq import RQConfig
from slimtab.testing.contract import TableContract


class TestRQ(TableContract):
    method = "rq"
    budget = "15%"
    tolerance = 1e-6

    def may_waste(self, counted, nbytes, features, dim):
        """A step adds a code to every id, or a bit to its only one: neither fits."""
        ids = sum(feature.num_ids for feature in features)
        used = RQConfig._largest(features, dim, nbytes)
        more = [RQConfig(used.levels + 1, used.bits)]
        more += [RQConfig(1, used.bits + 1)] if used.bits < 8 else []
        return all(config.serve_bytes(ids, dim) > nbytes for config in more)
