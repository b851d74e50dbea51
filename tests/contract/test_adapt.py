"""The contract, for frequent ids with rows of their own."""

from slimtab.testing.contract import TableContract


class TestAdapt(TableContract):
    method = "adapt"


class TestAdaptMostlyHot(TableContract):
    method = "adapt"
    options = {"hot_share": 0.9}
    budget = "10%"
