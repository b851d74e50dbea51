"""The contract, for searched widths."""

import numpy as np

from slimtab.schema import Feature
from slimtab.tables.autodim import AutoDimConfig, candidates, choose_widths
from slimtab.tables.mde import stored_floats
from slimtab.testing.contract import TableContract


class TestAutoDim(TableContract):
    method = "autodim"

    def may_waste(self, counted: int, nbytes: int, features: list[Feature], dim: int) -> bool:
        """A step is one more float for every id of a feature, and its projection, or full rows."""
        sizes = np.array([feature.num_ids for feature in features])
        limit = AutoDimConfig.for_budget(features, dim, nbytes).nbytes
        widths = np.array(choose_widths(sizes, np.zeros((len(sizes), len(candidates(dim)))), dim, limit))
        step = stored_floats(sizes, np.minimum(widths + 1, dim), dim) - stored_floats(sizes, widths, dim)
        return nbytes - counted < 4 * int(step[widths < dim].min())


class TestAutoDimOddWidth(TestAutoDim):
    """The width itself is a candidate beside the powers of two."""

    dim = 12
    budget = "60%"
