"""That every part of a table is trained, and that this helps."""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits

from slimtab.tables.rows.base import SteppedRows
from slimtab.testing.contract.setting import RATES, Setting
from slimtab.testing.training import planted_batches, train_steps, walk_stages
from slimtab.training.metrics import predict
from slimtab.training.optimizers import Optimizers, fused_rows


class LearningContract(Setting):
    """Tests of gradients, and of a small training."""

    def test_gradient_reaches_everything(self) -> None:
        """A part that nothing trains is bytes for nothing."""
        collection = self.build(fused_rows(RATES, 4))
        model, table = self.model(collection), self.table(collection)
        for stage in table.stages:
            if stage != table.stage:
                table.set_stage(stage)
            model.train()
            train_steps(model, planted_batches(self.schema, 1, 256, seed=4), Optimizers(model, RATES, 4))
            model.zero_grad()
            loss = model(planted_batches(self.schema, 1, 512, seed=5)[0]).square().mean()
            penalty = table.penalty()
            torch.autograd.backward(loss if penalty is None else loss + penalty)
            for name, parameter in table.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, f"{stage}: {name}"
                    assert float(parameter.grad.abs().sum()) > 0, f"{stage}: {name}"
            for name, rows in table.named_modules():
                if isinstance(rows, SteppedRows) and rows.num_rows:
                    assert rows.grad_norm(), f"{stage}: {name}"

    def test_learns_a_planted_signal(self) -> None:
        """Better by 0.05 AUC than the same model whose tables stay as they began."""
        train, held_out = (
            planted_batches(self.schema, 60, 512, seed=10),
            planted_batches(self.schema, 8, 512, seed=11),
        )
        auc = {}
        for moves in (True, False):
            model = self.model(self.build(fused_rows(RATES, 60), init_std=0.02))
            if moves:
                for _ in range(3):
                    walk_stages(model, train, RATES)
            else:
                network = torch.optim.AdamW(
                    [p for n, p in model.named_parameters() if not n.startswith("tables.")], lr=RATES.lr
                )
                for batch in train * 3:
                    network.zero_grad()
                    with torch.no_grad():
                        vectors = model.tables.embed(batch)
                    logit = model.interact(batch.dense, vectors)
                    torch.autograd.backward(binary_cross_entropy_with_logits(logit, batch.label))
                    network.step()
            label, probability = predict(model, held_out)
            auc[moves] = roc_auc_score(label, probability)
        assert auc[True] > auc[False] + 0.05, auc
