"""The contract, for tables pruned by magnitude."""

from slimtab.testing.contract import TableContract


class TestDeepLight(TableContract):
    method = "deeplight"


class TestDeepLightOddWidth(TableContract):
    """Five rows of bits to a block, with bits left over."""

    method = "deeplight"
    dim = 12
    budget = "60%"
