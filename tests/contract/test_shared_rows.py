"""The contract, for the tables whose rows are read by address."""

from slimtab.testing.contract import TableContract


class TestFull(TableContract):
    method = "full"
    budget = "100%"


class TestHash(TableContract):
    method = "hash"


class TestHashTwoProbes(TableContract):
    method = "hash"
    options = {"probes": 2}


class TestUnified(TableContract):
    method = "unified"


class TestUnifiedProjected(TableContract):
    method = "unified"
    options = {"probes": 2, "project": True}
