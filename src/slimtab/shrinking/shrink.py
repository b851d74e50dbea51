"""Shrinking trained tables: what `slimtab shrink` does, callable from Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from slimtab.errors import SlimtabError, nearest
from slimtab.schema import Feature
from slimtab.shrinking.made import Made
from slimtab.shrinking.methods import get_method
from slimtab.shrinking.modules import embeddings_of, replace
from slimtab.shrinking.report import figures_of
from slimtab.shrinking.shrunk import Group, Shrunk
from slimtab.shrinking.vectors import Vectors
from slimtab.sizes import Budget
from slimtab.tables.base import check_fits
from slimtab.tables.groups import divide


def shrink(
    tables: Mapping[str, Tensor] | nn.Module,
    method: str,
    budget: str | int | None = None,
    *,
    counts: Mapping[str, Any] | None = None,
    min_ids: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Shrunk:
    """Make trained tables small, without training.

    Tables of one width share what a method shares (codebooks, rotation, blocks).

    Args:
        tables: vectors [ids, dim] by name, any float dtype; or a module, whose ``nn.Embedding`` and
            ``nn.EmbeddingBag`` (those inside torchrec's ``EmbeddingBagCollection`` too) are replaced in place
            by frozen ones that are called alike.
        method: ``int8``, ``int4``, ``int2``, ``rq``, ``pq``, ``binary``, ``dedup``, ``tt`` or ``prune``.
        budget: serving bytes: a share of the full tables like ``"8%"``, or a size like ``"4MB"``. The integer
            methods have one size only and need none.
        counts: how often ids are read [ids], by table, for all of them: errors in frequent rows then matter
            more.
        min_ids: modules of fewer rows stay; tables given by name are all taken.
        seed: of samples and starts.
        progress: show a progress bar on a terminal.

    Returns:
        The frozen tables, and figures of each.

    Raises:
        SlimtabError: when there is no table, one holds NaN, or the method cannot fit the budget.

    Example:
        >>> found = shrink({"user": torch.randn(10_000, 16), "item": torch.randn(2_000, 16)}, "int4")
        >>> found.serve_bytes / found.full_bytes, found.vectors("item", torch.tensor([3, 7])).shape
        (0.1875, torch.Size([2, 16]))
    """
    if isinstance(tables, nn.Module):
        modules = embeddings_of(tables, min_ids)
        weights = {name: found[0].weight.detach() for name, found in modules.items()}
        shrunk = shrink(weights, method, budget, counts=counts, seed=seed, progress=progress)
        shrunk.replaced = replace(tables, modules, shrunk)
        return shrunk
    groups = gather(tables, counts)
    coder, sizes = get_method(method), _sizes(method, groups, budget)
    with row_bar("coding", groups, progress) as told:
        made = [coder.fit(vectors, nbytes, seed, told) for vectors, nbytes in zip(groups, sizes, strict=True)]
    shrunk = Shrunk(method, [group_of(result, vectors) for result, vectors in zip(made, groups, strict=True)])
    shrunk.figures = compare(shrunk, groups, progress)
    return shrunk


def group_of(made: Made, vectors: Vectors) -> Group:
    """Return what was coded with the names of its tables."""
    return Group(vectors.features, vectors.dim, made.method, made.config, made.table.eval(), made.shares)


def compare(shrunk: Shrunk, groups: Sequence[Vectors], progress: bool) -> dict[str, dict[str, Any]]:
    """Return figures by table; see :func:`~slimtab.shrinking.report.figures_of`."""
    figures: dict[str, dict[str, Any]] = {}
    with row_bar("comparing", groups, progress) as told:
        for group, vectors in zip(shrunk.groups, groups, strict=True):
            figures |= figures_of(group, vectors, told)
    return figures


@contextmanager
def row_bar(title: str, groups: Sequence[Vectors], progress: bool) -> Iterator[Callable[[int], object]]:
    """Show a bar of rows on a terminal, and give what moves it."""
    rows, hidden = sum(group.rows for group in groups), not (progress and sys.stderr.isatty())
    with tqdm(total=rows, desc=title, unit="row", unit_scale=True, delay=2, disable=hidden) as bar:
        yield bar.update


def gather(tables: Mapping[str, Tensor], counts: Mapping[str, Any] | None) -> list[Vectors]:
    """Return tables by width, checked.

    Raises:
        SlimtabError: when there is none, one is no table, or counts are missing or of another length.
    """
    if not tables:
        raise SlimtabError("there is no table to shrink")
    by_width: dict[int, list[str]] = {}
    for name, table in tables.items():
        if table.dim() != 2 or not table.is_floating_point() or not table.numel():
            raise SlimtabError(
                f"'{name}' is no table: {table.dtype} of shape {list(table.shape)}, where floats [ids, dim] "
                "are needed; leave it out"
            )
        by_width.setdefault(table.shape[1], []).append(name)
    if counts is not None:
        counts = {name: torch.as_tensor(counts[name]) for name in counts}
        _check_counts(tables, counts)
    return [
        Vectors(
            [Feature(name, len(tables[name])) for name in names],
            [tables[name].detach() for name in names],
            None if counts is None else torch.cat([counts[name] for name in names]),
        )
        for names in by_width.values()
    ]


def _check_counts(tables: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> None:
    for name, table in tables.items():
        if name not in counts:
            raise SlimtabError(f"there are no counts for table '{name}'{nearest(name, counts)}")
        if len(counts[name]) != len(table):
            raise SlimtabError(
                f"table '{name}' has {len(table)} rows and its counts are {len(counts[name])}: they belong "
                "to another vocabulary"
            )


def _sizes(method: str, groups: list[Vectors], budget: str | int | None) -> list[int]:
    """Return bytes for each group.

    Raises:
        SlimtabError: when there is no budget and one is needed, or it cannot be reached.
    """
    coder = get_method(method)
    least, full = [coder.smallest(group) for group in groups], [group.full_bytes for group in groups]
    if budget is None:
        if not coder.sized:
            raise SlimtabError(f"{method} can be of many sizes; give a budget, such as 8%")
        return least
    nbytes = Budget.parse(budget).resolve(sum(full))
    check_fits(method, sum(least), sum(full), nbytes)
    return divide(nbytes, full, least, {})
