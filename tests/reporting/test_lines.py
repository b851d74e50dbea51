"""What drawings share: round bytes along an axis, however narrow or wide it is."""

import pytest
from test_compare import run

from slimtab.reporting.compare import contenders
from slimtab.reporting.lines import byte_ticks


@pytest.mark.parametrize(("small", "large"), [(1_790_000, 3_600_000), (36_000, 3_600_000), (50, 50)])
def test_byte_ticks(small, large):
    """An axis has at least two of them, and not so many that they touch."""
    ticks = byte_ticks(contenders([run("qr", serve=small), run("full", serve=large)]))
    inside = [tick for tick in ticks if small <= tick * 1.2 and tick <= large * 1.2]
    assert 2 <= len(inside) <= 8
    assert ticks == sorted(ticks)
    assert all(len(str(tick).rstrip("0")) <= 2 for tick in ticks)
