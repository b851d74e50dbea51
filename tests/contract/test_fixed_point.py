"""The contract, for tables of integers with a fixed step."""

from slimtab.testing.contract import TableContract


class TestInt8(TableContract):
    method = "int8"
    budget = "26%"


class TestInt16(TableContract):
    method = "int16"
    budget = "51%"
