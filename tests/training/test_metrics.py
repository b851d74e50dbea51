"""AUC, logloss and calibration: against their definitions, written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtab.batch import Batch
from slimtab.errors import SlimtabError
from slimtab.training.metrics import Metrics, evaluate, predict, score

ROWS = st.lists(st.tuples(st.booleans(), st.floats(0.001, 0.999)), min_size=1, max_size=60)


def by_hand(label, probability):
    """AUC as the share of (click, no click) pairs in the right order, ties counting half."""
    clicks, others = probability[label == 1], probability[label == 0]
    right = (clicks[:, None] > others).sum() + 0.5 * (clicks[:, None] == others).sum()
    logloss = -np.mean(label * np.log(probability) + (1 - label) * np.log(1 - probability))
    return right / (len(clicks) * len(others)) if len(clicks) and len(others) else math.nan, logloss


@settings(deadline=None)
@given(ROWS)
def test_against_the_definitions(rows):
    """Also with ties, and with one class only, where AUC has no meaning and nothing may crash."""
    label = np.array([float(click) for click, _ in rows])
    probability = np.array([p for _, p in rows])
    metrics = score(label, probability)
    auc, logloss = by_hand(label, probability)
    assert metrics.auc == pytest.approx(auc, nan_ok=True)
    assert metrics.logloss == pytest.approx(logloss)
    assert metrics.rows == len(rows)
    expected = probability.sum() / label.sum() if label.any() else math.nan
    assert metrics.calibration == pytest.approx(expected, nan_ok=True)


def test_certain_predictions_are_finite():
    """A sigmoid saturates at exactly 0 and 1; one confident mistake may not make the loss infinite."""
    assert math.isfinite(score(np.array([0.0, 1.0]), np.array([1.0, 0.0])).logloss)


class Echo(torch.nn.Module):
    """Predicts the logit that stands in the first numeric column; notes the mode it is called in."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, batch):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return batch.dense[:, 0]


def batches(*sizes):
    number = 0
    for size in sizes:
        logit = torch.arange(number, number + size).float() / 10
        yield Batch(logit[:, None], (), torch.zeros(size, 0).long(), (logit > 0.25).float())
        number += size


def test_predictions_keep_the_order_of_the_rows():
    """`slimtab predict` promises a probability per row, in the file's order."""
    label, probability = predict(Echo(), batches(3, 1, 4))
    logit = torch.arange(8).double() / 10
    np.testing.assert_allclose(probability, torch.sigmoid(logit), rtol=1e-6)
    assert label.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_eval_mode_only_meanwhile(training):
    """Dropout off while scoring, and back as it was: a validation may not change the training."""
    model = Echo().train(training)
    evaluate(model, batches(2, 2))
    assert model.modes == [(False, False)] * 2
    assert model.training is training


def test_no_rows_is_one_line():
    """A dataset prepared without validation or test rows."""
    with pytest.raises(SlimtabError, match="no rows to score"):
        evaluate(Echo(), batches())


def test_to_dict_is_what_metrics_json_holds():
    """Other tools read these names."""
    assert Metrics(0.7, 0.5, 1.0, 9).to_dict() == {"auc": 0.7, "logloss": 0.5, "calibration": 1.0, "rows": 9}
