"""When rates fall, when a stage ends, and what is its best."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimtab.training.schedule import Schedule


def walk(schedule, losses):
    """Train to the end: the loss of each validation, in turn; steps after which there was one, and rates."""
    losses, step, seen, scales = iter(losses), 0, [], []
    while step < schedule.ends:
        scales.append(schedule.scale(step))
        step += 1
        if schedule.validates(step):
            seen.append((step, schedule.update(step, next(losses)), schedule.goes_back))
    return seen, scales


@pytest.mark.parametrize(
    ("patience", "losses", "goes_back", "ends"),
    [
        (0, [5, 4, 4.1, 4.2], [30], 40),  # the fall brought nothing
        (0, [5, 4, 4.1, 3, 3.1, 3.2], [30, 50], 60),  # the first did, the second did not
        (0, [5, 4, 4.1, 3, 2, 1, 1.1, 1.2], [30, 70], 80),  # a lower rate is kept while it brings something
        (1, [5, 5.1, 4, 4.1, 4.2, 4], [50], 60),  # one alone may be chance
        (2, [5, 5, 5, 5, 6], [40], 50),  # equal is no gain
        (2, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [], 100),
        (9, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0], [], 100),
    ],
)
def test_rates_fall_when_patience_is_used_up(patience, losses, goes_back, ends):
    schedule = Schedule.of(100, 10, patience, 1)
    seen, _ = walk(schedule, losses)
    assert [step for step, _, back in seen if back] == goes_back
    assert seen[-1][0] == schedule.ends == ends
    best = [losses[number] for number, (_, better, _) in enumerate(seen) if better]
    assert best == sorted(best, reverse=True)
    assert schedule.best == min(losses[: len(seen)])


def test_rates_by_step():
    """To a tenth in a straight line, from there to a hundredth, and to nothing where the steps run out."""
    _, scales = walk(Schedule.of(80, 10, 0, 1), [5, 4, 4.1, 3, 3.1, 2, 1, 0])
    assert len(scales) == 80
    assert scales[:31] == [1.0] * 31
    assert scales[35] == pytest.approx(0.55)
    assert scales[40:51] == pytest.approx([0.1] * 11)
    assert scales[60:71] == pytest.approx([0.01] * 11)
    assert scales[71:] == pytest.approx([0.01 * left / 10 for left in range(9, 0, -1)])


@given(
    steps=st.integers(1, 300),
    every=st.integers(1, 60),
    patience=st.integers(0, 4),
    cooldown=st.integers(1, 4),
    losses=st.lists(st.floats(0, 1), min_size=300, max_size=300),
)
def test_any_stage_ends_with_a_validation_and_rates_never_rise(steps, every, patience, cooldown, losses):
    schedule = Schedule.of(steps, every, patience, cooldown)
    seen, scales = walk(schedule, losses)
    assert 0 < schedule.ends <= steps
    assert seen[-1][0] == schedule.ends
    assert scales == sorted(scales, reverse=True)
    assert scales[0] <= 1
    assert scales[-1] > 0
    # It ends early only after a whole fall that brought nothing.
    assert schedule.ends == steps or schedule.ends >= schedule.falls_at + schedule.cooldown
    assert schedule.cooldown <= max(1, min(cooldown * every, steps // 2))


def test_not_a_number_is_never_best():
    """NaN compares false with everything; it may not become the mark that all others fail."""
    schedule = Schedule.of(100, 10, 1, 1)
    assert not schedule.update(10, math.nan)
    assert schedule.update(20, 0.5)


def test_state_round_trip():
    """A resumed run ends where the uninterrupted one would."""
    schedule = Schedule.of(100, 10, 2, 1)
    for step, loss in ((10, 0.5), (20, 0.6), (30, 0.7)):
        schedule.update(step, loss)
    again = Schedule(**schedule.state_dict())
    assert again == schedule
    again.update(40, 0.8)
    assert again.goes_back
    again.update(50, 0.8)
    assert again.ends == 50


def test_a_stage_with_nothing_to_add_is_over():
    schedule = Schedule.of(100, 10, 2, 1)
    schedule.end(0)
    assert schedule.ends == 0
