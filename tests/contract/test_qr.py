"""The contract, for quotient–remainder tables."""

import numpy as np

from slimtab.tables.qr import QRConfig
from slimtab.testing.contract import TableContract


class _QRContract(TableContract):
    def may_waste(self, counted, nbytes, features, dim):
        """Whether no smaller collision number, on a fine grid, makes a table within the budget.

        Every feature steps at once, so tables of few rows have wide steps.
        """
        config = QRConfig.for_budget(features, dim, nbytes, **self.options)
        sizes = np.array([feature.num_ids for feature in features])
        grid = np.concatenate([np.arange(1.0, 4000), np.geomspace(1, 4000, 20_000)])
        grid = grid[grid < 0.9999 * config.collisions]
        rows = config.rows_at(sizes, config.partitions, grid)[1]
        return not (4 * config.floats_of_a_row(dim, config.partitions) * rows <= nbytes).any()


class TestQRMult(_QRContract):
    method = "qr"


class TestQRAdd(_QRContract):
    method = "qr"
    options = {"mode": "add"}


class TestQRConcat(_QRContract):
    method = "qr"
    options = {"mode": "concat"}


class TestQRThreeParts(_QRContract):
    method = "qr"
    options = {"partitions": 3}
    budget = "10%"
