"""The contract, for MEmCom."""

from slimtab.testing.contract import TableContract


class TestMemcom(TableContract):
    method = "memcom"
    tolerance = 1e-6  # what is served rounds the product before it adds the bias, training does not
    budget = "40%"  # at width 8 a quarter of the full table is factors and biases alone


class TestMemcomWithoutBias(TableContract):
    method = "memcom"
    options = {"bias": False}
