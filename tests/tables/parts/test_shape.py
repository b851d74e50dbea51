"""How a shape grows into the room it is given."""

from hypothesis import given
from hypothesis import strategies as st

from slimtab.tables.parts.shape import Shape, widened

FEATURES = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 8)), min_size=1, max_size=6)


def test_the_narrowest_grows_first():
    """And where it does not fit any more, the others go on."""
    shape = Shape((10, 4, 1), (1, 3, 2))
    assert widened(shape, 8, 24 + 10).widths == (2, 3, 2)
    assert widened(shape, 8, 24 + 20 + 1 + 4).widths == (3, 4, 3)
    assert widened(shape, 8, 24 + 9).widths == (1, 4, 7)


@given(features=FEATURES, spare=st.integers(0, 500))
def test_fills_the_room_and_takes_nothing_away(features, spare):
    shape = Shape(tuple(rows for rows, _ in features), tuple(width for _, width in features))
    room = shape.floats + spare
    wide = widened(shape, 8, room)
    assert wide.floats <= room
    assert all(8 >= new >= old for new, old in zip(wide.widths, shape.widths, strict=True))
    for rows, width in zip(wide.kept, wide.widths, strict=True):
        assert width == 8 or rows > room - wide.floats
