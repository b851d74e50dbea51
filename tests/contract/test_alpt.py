"""The contract, for integers with a learned step per row."""

from slimtab.testing.contract import TableContract


class TestALPT(TableContract):
    method = "alpt"
    budget = "32%"


class TestALPT16(TableContract):
    method = "alpt"
    options = {"bits": 16}
    budget = "60%"
