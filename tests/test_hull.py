"""The hull of bytes and quality."""

from slimtab.hull import hull


def of(*points):
    return hull(points, lambda point: point[0], lambda point: point[1])


def test_what_is_beaten_is_left_out():
    """What is neither smaller nor better than another, in whatever order they come; one of equals stays."""
    points = [(20, 0.71), (100, 0.76), (100, 0.74), (99, 0.70), (1000, 0.80)]
    expected = [(20, 0.71), (100, 0.76), (1000, 0.80)]
    assert of(*points) == of(*points[::-1]) == expected
    assert of(*points, (20, 0.71)) == expected
    assert of() == []
