"""What a checkpoint, a copy and a seed must give again."""

from __future__ import annotations

import copy
import io
import pickle

import torch

from slimtab.tables.base import in_last_stage
from slimtab.testing.contract.setting import RATES, Setting
from slimtab.testing.training import every_id, planted_batches, train_steps
from slimtab.training.optimizers import Optimizers, fused_rows


class StateContract(Setting):
    """Tests of what is saved, copied and repeated."""

    def test_state_dict_is_complete(self) -> None:
        """Masks, codes and seeds are buffers: a checkpoint alone rebuilds the table."""
        table = self.table(self.trained().tables)
        other = self.table(self.build(fused_rows(RATES, 4), seed=7))
        other.adopt(table.config)
        in_last_stage(other).load_state_dict(table.state_dict())
        ids, slot = every_id(table)
        with torch.no_grad():
            assert torch.equal(other.eval()(ids, slot), table(ids, slot))

    def test_copies_and_pickles(self) -> None:
        """Closures would not; users send models to worker processes."""
        model = self.trained()
        model.zero_grad()
        table = self.table(model.tables)
        ids, slot = every_id(table)
        with torch.no_grad():
            for other in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
                assert torch.equal(other(ids, slot), table(ids, slot))

    def test_same_seed_same_weights(self) -> None:
        """Runs are compared over seeds, so a seed must mean something."""
        one, other = self.trained().state_dict(), self.trained().state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_resumes_in_mid_training(self) -> None:
        """State, optimizer and generator saved after three steps, loaded elsewhere: the same three follow."""
        batches = planted_batches(self.schema, 6, 64, seed=2)
        whole = self.model(self.build(fused_rows(RATES, 6)))
        own = Optimizers(whole, RATES, 6)
        train_steps(whole, batches[:3], own)
        saved = io.BytesIO()
        torch.save([whole.state_dict(), own.tensors(), torch.get_rng_state()], saved)
        train_steps(whole, batches[3:], own)
        saved.seek(0)
        state, tensors, generator = torch.load(saved, weights_only=True)
        resumed = self.model(self.build(fused_rows(RATES, 6), seed=5), seed=5)
        again = Optimizers(resumed, RATES, 6)
        resumed.load_state_dict(state)
        again.load(tensors)
        torch.set_rng_state(generator)
        train_steps(resumed, batches[3:], again)
        one, other = whole.state_dict(), resumed.state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)
