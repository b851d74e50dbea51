"""The contract every method keeps, as tests: subclass :class:`TableContract` and pytest runs them all.

Example:
    >>> class TestMine(TableContract):
    ...     method = "mine"
"""

from slimtab.testing.contract.budgets import SIZES, BudgetContract
from slimtab.testing.contract.freezing import FreezingContract
from slimtab.testing.contract.learning import LearningContract
from slimtab.testing.contract.state import StateContract
from slimtab.testing.contract.values import ValuesContract

__all__ = ["SIZES", "TableContract"]


class TableContract(ValuesContract, StateContract, LearningContract, FreezingContract, BudgetContract):
    """Tests of one method at one setting.

    :class:`~slimtab.testing.contract.setting.Setting` says what a subclass may set.
    """
