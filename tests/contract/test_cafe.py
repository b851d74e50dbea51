"""The contract, for CAFE: at its own settings, and where ids become hot within a few steps."""

from slimtab.testing.contract import TableContract


class TestCafe(TableContract):
    method = "cafe"


class TestCafeEager(TableContract):
    """Rows are given away at the first sight and taken back often."""

    method = "cafe"
    options = {"threshold": 1.0, "shared": 0.3, "decay": 0.5}
