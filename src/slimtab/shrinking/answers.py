"""What coded tables change in a model's answers, on rows of its data.

The loss is cross-entropy with the answers of the model as it was, less their own entropy (Kullback &
Leibler, 1951). Labels would add their noise to it; and a model that has learned its training rows by heart
may even gain in logloss where codes blur them, which is no reason to prefer the coarser code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from slimtab.batch import Batch


class Answers:
    """The answers of a model as it is now.

    Args:
        model: returns logits [B] for a batch.
        batches: rows to answer.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.model, self.batches = model, batches
        self._target = torch.sigmoid(self._logits())
        self._least = self._cross_entropy(torch.logit(self._target, eps=1e-12))

    def loss(self) -> Tensor:
        """Return the nats by which the model's answers are off by now, for each row [R] float64."""
        return self._cross_entropy(self._logits()) - self._least

    @torch.no_grad()
    def _logits(self) -> Tensor:
        training = self.model.training
        self.model.eval()
        logits = torch.cat([self.model(batch) for batch in self.batches]).double()
        self.model.train(training)
        return logits

    def _cross_entropy(self, logits: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits, self._target, reduction="none")
