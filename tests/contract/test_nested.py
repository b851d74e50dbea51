"""The contract, for nested dimensions."""

from slimtab.testing.contract import TableContract


class TestNested(TableContract):
    method = "nested"


class TestNestedOddWidth(TableContract):
    """The width itself is drawn beside the powers of two."""

    method = "nested"
    dim = 12
    budget = "60%"
