"""The contract, for ROBE."""

from slimtab.testing.contract import TableContract


class TestRobe(TableContract):
    method = "robe"


class TestRobeOneWideChunk(TableContract):
    """The whole vector is one window, and its signs need more than one word."""

    method = "robe"
    options = {"block": 72}
    dim = 72

    # Only this width is divided by the block; narrower ones are the other classes' to test.
    def test_budget_is_kept_and_used(self) -> None:
        """See the other classes."""

    def test_smallest_size_is_real_and_named(self) -> None:
        """See the other classes."""


class TestRobeSingleFloats(TableContract):
    """Blocks of one float are HashedNets."""

    method = "robe"
    options = {"block": 1}
