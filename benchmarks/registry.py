"""Every registered method under the benchmarks' workload: what is built of it, and at how many bytes."""

import numpy as np

import workload
from slimtab.schema import Feature
from slimtab.sizes import Budget
from slimtab.tables.base import methods


def features(ids: int) -> list[Feature]:
    """The 26 features of the workload."""
    return [Feature(f"C{number}", size) for number, size in enumerate(workload.sizes(ids), start=1)]


def nbytes(method: str, ids: int, dim: int, budget: str) -> int:
    """Bytes of ``budget``, or the smallest a method can make where those are more."""
    columns = features(ids)
    smallest = methods()[method].Config.smallest_bytes(columns, dim)
    return max(smallest, Budget.parse(budget).resolve(4 * dim * ids))


def counts(ids: np.ndarray, columns: list[Feature]) -> dict[str, np.ndarray]:
    """How often batches of ids [count, batch, features] hold each id, by feature."""
    return {
        feature.name: np.bincount(ids[:, :, column].reshape(-1), minlength=feature.num_ids)
        for column, feature in enumerate(columns)
    }


def chosen(names: list[str]) -> list[str]:
    """Methods by name, ``full`` first; ``all`` stands for every registered one."""
    known = methods()
    wanted = list(known) if names == ["all"] else names
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"no method {unknown[0]!r}; there are {', '.join(known)}")
    return ["full", *(name for name in wanted if name != "full")]
