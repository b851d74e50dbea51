"""How good predictions are: AUC, logloss and calibration, on the whole of a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from slimtab.batch import Batch
from slimtab.errors import SlimtabError


@dataclass(frozen=True)
class Metrics:
    """Figures of one evaluation.

    Attributes:
        auc: area under the ROC curve; NaN when all labels are the same.
        logloss: mean binary cross-entropy, in nats.
        calibration: sum of predicted probabilities over number of clicks; 1 is right.
        rows: rows scored.
    """

    auc: float
    logloss: float
    calibration: float
    rows: int

    def to_dict(self) -> dict[str, float]:
        """Return plain values."""
        return asdict(self)


def score(label: NDArray[np.float64], probability: NDArray[np.float64]) -> Metrics:
    """Compare predicted probabilities [N] with labels [N] of 0 and 1."""
    clicks = float(label.sum())
    both = 0 < clicks < len(label)
    return Metrics(
        auc=float(roc_auc_score(label, probability)) if both else float("nan"),
        logloss=float(log_loss(label, probability, labels=[0, 1])),
        calibration=float(probability.sum()) / clicks if clicks else float("nan"),
        rows=len(label),
    )


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Batch]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return labels [N] and probabilities [N] of all rows, in order, with ``model`` in eval mode.

    Raises:
        SlimtabError: when there is no row.
    """
    training = model.training
    model.eval()
    labels, probabilities = [], []
    for batch in batches:
        probabilities.append(torch.sigmoid(model(batch).double()).cpu().numpy())
        labels.append(batch.label.double().cpu().numpy())
    model.train(training)
    if not labels:
        raise SlimtabError("there are no rows to score; prepare the dataset with a larger share of them")
    return np.concatenate(labels), np.concatenate(probabilities)


def evaluate(model: nn.Module, batches: Iterable[Batch]) -> Metrics:
    """Score a model on all rows of ``batches``."""
    return score(*predict(model, batches))
