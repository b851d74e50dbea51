"""The contract, for searched widths."""

import numpy as np
import torch

from slimtab.schema import Feature
from slimtab.tables.autodim import AutoDimConfig, candidates, choose_widths
from slimtab.tables.base import in_last_stage
from slimtab.testing.contract import RATES, TableContract
from slimtab.testing.training import every_id
from slimtab.training.optimizers import fused_rows


class TestAutoDim(TableContract):
    method = "autodim"

    def may_waste(self, counted: int, nbytes: int, features: list[Feature], dim: int) -> bool:
        """A step is one more float for every id of a feature, and its projection, or full rows."""
        sizes = np.array([feature.num_ids for feature in features])
        limit = AutoDimConfig.for_budget(features, dim, nbytes).nbytes
        widths = np.array(choose_widths(sizes, np.zeros((len(sizes), len(candidates(dim)))), dim, limit))
        return nbytes - counted < 4 * min((sizes + dim)[widths < dim - 1], default=0)

    def test_state_dict_is_complete(self) -> None:
        """Narrowly other: the shapes are what was chosen, so the config goes with the checkpoint."""
        table = self.table(self.trained().tables)
        other = self.table(self.build(fused_rows(RATES, 4), seed=7))
        other.adopt(table.config)
        in_last_stage(other).load_state_dict(table.state_dict())
        ids, slot = every_id(table)
        with torch.no_grad():
            assert torch.equal(other.eval()(ids, slot), table(ids, slot))


class TestAutoDimOddWidth(TestAutoDim):
    """The width itself is a candidate beside the powers of two."""

    dim = 12
    budget = "60%"
