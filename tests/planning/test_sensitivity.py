"""What is measured is what a model really loses when it reads codes."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from slimtab.batch import Batch
from slimtab.collection import TableCollection
from slimtab.models.base import build_model
from slimtab.planning.options import FULL, Ladder, Option
from slimtab.planning.sensitivity import Mixtures
from slimtab.schema import Feature
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.rq import RQ, RQConfig

FEATURES = [Feature("used", 3000), Feature("unused", 3000), Feature("tiny", 3)]

COMMON = Ladder((*(Option(RQConfig((2,) if n == 0 else (8,) * n)) for n in range(4)), FULL), (0, 0, 0))
SHAPES = [(2, (1, 1, 1)), (4, (1, 2, 1)), (4, (3, 3, 1)), (6, (4, 4, 1))]
OWN = Ladder(
    (*(Option(RQConfig((8,), own_bits=(bits, bits, 2), own_levels=levels)) for bits, levels in SHAPES), FULL),
    (0, 0, 0),
)
LAST = len(SHAPES)


def made():
    """A model whose second feature has no vectors to speak of, and rows it fits perfectly."""
    torch.manual_seed(0)
    tables = TableCollection.build(FEATURES, 8, init_std=0.5)
    with torch.no_grad():
        tables.table.rows.weight[3000:6000] *= 1e-4
    model = build_model("deepfm", tables, 2, {"mlp": [16], "dropout": 0.0}).eval()
    ids = torch.stack([torch.randint(0, f.num_ids, (4000,)) for f in FEATURES], dim=1)
    batch = Batch(torch.rand(4000, 2), tuple(f.name for f in FEATURES), ids, torch.zeros(4000))
    with torch.no_grad():
        batch.label.copy_((model(batch) > 0).float())
    return model, [batch]


def mixtures(model, batches, ladder):
    return Mixtures(model, batches, torch.ones(sum(f.num_ids for f in FEATURES), dtype=torch.int64), ladder)


@pytest.mark.parametrize("ladder", [COMMON, OWN])
def test_measures(ladder):
    """A feature whose vectors matter loses by fewer bits, one whose vectors are next to zero does not."""
    model, batches = made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps = [3, 3, 3]
    loss = mixtures(model, batches, ladder).sensitivity(steps)
    assert loss.shape == (3, len(ladder.options))
    assert (np.diff(loss, axis=1) <= 0).all()
    assert loss[0, 0] > 0.01
    assert abs(loss[1]).max() < 0.1 * loss[0, 0]
    assert loss[0, -1] < 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("ladder", [COMMON, OWN])
@pytest.mark.parametrize("steps", [[0, 3, 1], [LAST, 2, LAST], [1, 2, 0]])
def test_is_the_loss_of_a_model_with_those_codes(ladder, steps):
    """By hand: write the vectors that codes stand for into the table, and score."""
    model, batches = made()
    found = mixtures(model, batches, ladder).losses(steps).mean()
    counts = torch.ones(sum(f.num_ids for f in FEATURES))
    rows = model.tables.table.rows
    decoded = rows.values()
    for slot, step in enumerate(steps):
        if step != LAST:
            codes = RQ(ladder.options[step].codes, FEATURES, 8, PlainRows, 0.0)
            codes.rows.assign(rows.values())
            codes.use_counts(counts)
            codes.set_stage("code")
            ids = torch.arange(FEATURES[slot].num_ids)
            start = sum(f.num_ids for f in FEATURES[:slot])
            decoded[start : start + len(ids)] = codes.freeze()(ids, torch.full_like(ids, slot))
    rows.assign(decoded)
    with torch.no_grad():
        loss = binary_cross_entropy_with_logits(model(batches[0]), batches[0].label, reduction="none")
    expected = float(loss[1::2].mean())
    assert found == pytest.approx(expected, rel=1e-5)


def test_other_rows_tell_than_those_measured():
    """Labels that only the measured rows have make sensitivities, and no difference to the losses."""
    model, (batch,) = made()
    steps = [1, 1, 1]
    before = mixtures(model, [batch], OWN)
    batch.label[::2] = 1 - batch.label[::2]
    after = mixtures(model, [batch], OWN)
    assert np.array_equal(before.losses(steps), after.losses(steps))
    assert before.sensitivity(steps)[0, 0] != after.sensitivity(steps)[0, 0]
