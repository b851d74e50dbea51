"""The contract, for MEmCom."""

from slimtab.testing.contract import TableContract


class TestMemcom(TableContract):
    method = "memcom"
    budget = "40%"  # at width 8 a quarter of the full table is factors and biases alone


class TestMemcomWithoutBias(TableContract):
    method = "memcom"
    options = {"bias": False}
