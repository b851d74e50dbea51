"""The contract, for deep hash embeddings: fewer hashes than usual, for tables that are small."""

from slimtab.tables.dhe import DHEConfig
from slimtab.testing.contract import TableContract


class TestDHE(TableContract):
    method = "dhe"
    options = {"hashes": 32, "layers": 2}
    tolerance = 1e-4  # BatchNorm is folded into the weights

    def may_waste(self, counted, nbytes, features, dim):
        """Whether networks one wider are too large."""
        config = DHEConfig.for_budget(features, dim, nbytes, **self.options)
        network = config.network_bytes(dim, config.width + 1)
        return 8 + sum(min(4 * dim * feature.num_ids, network) for feature in features) > nbytes


class TestDHEDeep(TestDHE):
    options = {"hashes": 16}
    budget = "50%"
