"""The ladder around what `rq` chooses."""

import numpy as np
import pytest
import torch

from slimtab.planning.options import FULL, codes_for, ladder_for
from slimtab.schema import Feature
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.rq import RQ

FEATURES = [Feature("large", 6000), Feature("small", 300), Feature("tiny", 5)]
DIM = 8
BYTES = 4 * DIM * sum(feature.num_ids for feature in FEATURES)


def coded(share, scales):
    torch.manual_seed(0)
    codes = RQ(codes_for(FEATURES, DIM, int(share * BYTES)), FEATURES, DIM, PlainRows, 1.0)
    with torch.no_grad():
        each = torch.tensor(scales).repeat_interleave(torch.tensor([f.num_ids for f in FEATURES]))
        codes.rows.weight *= each[:, None]
    return codes


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_begins_with_the_choice_and_rises(share):
    """Where each feature has its own codewords, steps are those worth their bytes, and one is `rq`'s."""
    codes = coded(share, [1.0, 4.0, 2.0])
    losses = codes.try_shapes().own
    ladder = ladder_for(codes)
    *steps, last = ladder.options
    assert last == FULL
    sizes = np.array([option.nbytes(FEATURES, DIM) for option in steps])
    for slot, feature in enumerate(FEATURES):
        shapes = [option.codes.shapes[slot] for option in steps]
        assert shapes[ladder.start[slot]] == codes.config.shapes[slot]
        assert (np.diff(sizes[:, slot]) >= 0).all()
        # Beside the one that was chosen no step is beaten: in fewer bytes every shape loses more.
        for shape, size in zip(shapes, sizes[:, slot], strict=True):
            smaller = [lost for s, lost in losses[slot].items() if s.nbytes(feature.num_ids, DIM) < size]
            worth = size < 4 * DIM * feature.num_ids and losses[slot][shape] < min(smaller, default=np.inf)
            assert worth or shape == codes.config.shapes[slot]


def test_common_codewords_rise_too():
    """Where features are alike all stand on the step that uses the budget up."""
    codes = coded(0.032, [1.0, 1.0, 1.0])
    ladder = ladder_for(codes)
    assert not codes.config.own_bits
    assert not any(option.own for option in ladder.options)
    at = ladder.start[0]
    assert ladder.start == (at,) * len(FEATURES)
    whole = [sum(option.nbytes(FEATURES, DIM)) + option.shared(DIM) for option in ladder.options]
    assert whole == sorted(whole)
    assert whole[at] <= 0.032 * BYTES < whole[at + 1]


def test_names():
    own, common = (
        ladder_for(coded(share, scales)) for share, scales in ((0.2, [1.0, 4.0, 2.0]), (0.032, [1.0] * 3))
    )
    assert own.options[0].name(2) == "1 × 2 bits"
    assert common.options[0].name(2) == "2 bits, shared"
    assert FULL.name(0) == "full"
