"""Early stopping: how many validations without a better logloss are borne."""

import math

import pytest

from slimtab.training.plateau import Plateau


@pytest.mark.parametrize(
    ("patience", "losses", "best", "stops_at"),
    [
        (0, [0.5, 0.4, 0.41, 0.42], [True, True, False, False], 2),
        (1, [0.5, 0.51, 0.4, 0.41, 0.3], [True, False, True, False, True], None),  # one alone may be chance
        (1, [0.5, 0.6, 0.6, 0.4, 0.5, 0.45], [True, False, False, True, False, False], 5),
        (2, [0.5] * 6, [True, *[False] * 5], 5),  # equal is no improvement
        (5, [0.5, 0.4, 0.3], [True, True, True], None),
    ],
)
def test_counts_validations_in_a_row_without_a_better_one(patience, losses, best, stops_at):
    """Patience is refilled by each best."""
    plateau, stopped = Plateau(patience), None
    for number, (loss, is_best) in enumerate(zip(losses, best, strict=True)):
        assert plateau.update(loss) is is_best
        if plateau.stop and stopped is None:
            stopped = number
    assert stopped == stops_at


def test_rates_drop_when_patience_is_used_up_and_then_at_each():
    plateau, drops = Plateau(1), []
    for loss in (0.5, 0.6, 0.4, 0.5, 0.6, 0.3, 0.4):
        plateau.update(loss)
        drops.append(plateau.drops)
    assert drops == [False, False, False, False, True, False, True]


@pytest.mark.parametrize(
    ("before", "drops"), [([0.5, 0.4], [True, False]), ([0.4, 0.5, 0.6], [False, False])]
)
def test_rates_drop_near_the_end_if_they_never_did(before, drops):
    """Once; where they have dropped already, validations go on deciding."""
    plateau = Plateau(1)
    for loss in before:
        plateau.update(loss)
    assert [plateau.update(loss, closing=True) and plateau.drops for loss in (0.3, 0.2)] == drops


def test_not_a_number_is_never_best():
    """NaN compares false with everything; it may not become the mark that all others fail."""
    plateau = Plateau(1)
    assert not plateau.update(math.nan)
    assert plateau.update(0.5)


def test_state_round_trip():
    """A resumed run stops where the uninterrupted one would."""
    plateau = Plateau(2)
    for loss in (0.5, 0.6, 0.7):
        plateau.update(loss)
    again = Plateau(**plateau.state_dict())
    assert again == plateau
    for _ in range(2):
        again.update(0.8)
        assert not again.stop
    again.update(0.8)
    assert again.stop
