"""The contract, for mixed dimensions."""

import numpy as np

from slimtab.schema import Feature
from slimtab.tables.mde import MdeConfig
from slimtab.testing.contract import TableContract


class TestMde(TableContract):
    method = "mde"

    def may_waste(self, counted: int, nbytes: int, features: list[Feature], dim: int) -> bool:
        """A step is one more float for every id of a feature, and its projection."""
        config = MdeConfig.for_budget(features, dim, nbytes, **self.options)
        sizes, widths = np.array([feature.num_ids for feature in features]), np.array(config.widths)
        return nbytes - counted < 4 * int((sizes + dim)[widths < dim].min())


class TestMdeAnyWidth(TestMde):
    options = {"power_of_two": False}
    budget = "40%"
