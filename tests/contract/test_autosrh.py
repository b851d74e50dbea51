"""The contract, for gated tables."""

from slimtab.testing.contract import TableContract


class TestAutoSrh(TableContract):
    method = "autosrh"


class TestAutoSrhOddWidth(TableContract):
    """Five rows of bits to a block, with bits left over."""

    method = "autosrh"
    dim = 12
    budget = "60%"
