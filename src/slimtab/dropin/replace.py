"""Replacing embeddings in place: those of one width by one table, within one budget for all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from slimtab.dropin.finding import Source, find
from slimtab.dropin.modules import Bags, Vectors
from slimtab.dropin.report import Report
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.sizes import Budget, format_bytes
from slimtab.tables.base import EmbeddingTable, get_method
from slimtab.tables.groups import divide, served_bytes
from slimtab.tables.rows.plain import PlainRows


def compress(
    model: nn.Module,
    method: str = "qr",
    budget: str | int = "10%",
    min_ids: int = 1000,
    options: Mapping[str, Any] | None = None,
    *,
    ids_by_frequency: bool = False,
    skip: Collection[str] = (),
) -> Report:
    """Replace the embeddings of ``model`` in place by compressed ones that train with its own optimizer.

    Call it before the optimizer is made: parameters change. Forward code and ``state_dict`` go on working.

    Args:
        model: any module; ``nn.Embedding``, ``nn.EmbeddingBag`` and torchrec's ``EmbeddingBagCollection``
            inside it are replaced wherever they stand.
        method: as ``slimtab methods`` lists them.
        budget: serving bytes for all that is replaced: a share of it like ``"10%"``, or a size (``"4MB"``).
        min_ids: modules of fewer rows stay.
        options: fields of the method's config.
        ids_by_frequency: say that ids are numbered by falling frequency, which some methods build on.
        skip: names of modules to leave alone.

    Returns:
        What was done, and what is left to do.

    Raises:
        SlimtabError: when there is nothing to replace, a module does something that a compressed one cannot
            do, or the method does not fit.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10_000, 16), nn.Linear(16, 1))
        >>> report = compress(model, method="hash", budget="10%")
        >>> report.serve_bytes <= report.full_bytes // 10, model(torch.tensor([3, 7])).shape
        (True, torch.Size([2, 1]))
    """
    kind = get_method(method)
    if kind.by_frequency and not ids_by_frequency:
        raise SlimtabError(
            f"{method} treats frequent ids differently, and this model does not tell which they are; pass "
            "ids_by_frequency=True if ids are numbered by falling frequency, or choose another method"
        )
    report = Report()
    groups: dict[int, _Group] = {}
    for name, modules in find(model, min_ids, skip, report).items():
        dim = modules[0].embedding_dim
        groups.setdefault(dim, _Group(dim)).sources[name] = modules
    report.full_bytes = sum(group.full_bytes for group in groups.values())
    nbytes = Budget.parse(budget).resolve(report.full_bytes)
    options = dict(options or {})
    sizes = _divided(kind, list(groups.values()), nbytes, options)
    instead: dict[Source, nn.Module] = {}
    for group, size in zip(groups.values(), sizes, strict=True):
        config = kind.Config.for_budget(group.features, group.dim, size, **options)
        weights = torch.cat([modules[0].weight.detach() for modules in group.sources.values()])
        table = kind(config, group.features, group.dim, PlainRows, float(weights.float().std(correction=0)))
        table.to(weights.device)
        if table.start_from(weights):
            report.kept_weights += list(group.sources)
        report.add_table(table)
        report.serve_bytes += served_bytes(kind, config, group.features, group.dim)
        owns = True
        for slot, modules in enumerate(group.sources.values()):
            for module in modules:
                drop_in = Bags if isinstance(module, nn.EmbeddingBag) else Vectors
                instead[module] = drop_in(module, table, group.features[slot].name, slot, owns)
                owns = False
    put_instead(model, instead)
    return report


def put_instead(model: nn.Module, instead: Mapping[Source, nn.Module]) -> None:
    """Put other modules where embeddings stand, wherever in ``model`` that is."""
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if isinstance(child, Source) and child in instead:
                parent._modules[key] = instead[child]


@dataclass
class _Group:
    """Embeddings of one width, by name: the modules under a name share a weight."""

    dim: int
    sources: dict[str, list[Source]] = field(default_factory=dict)

    @property
    def features(self) -> list[Feature]:
        return [Feature(name, modules[0].num_embeddings) for name, modules in self.sources.items()]

    @property
    def full_bytes(self) -> int:
        return 4 * self.dim * sum(feature.num_ids for feature in self.features)


def _divided(
    kind: type[EmbeddingTable], groups: list[_Group], nbytes: int, options: dict[str, Any]
) -> list[int]:
    """Share a budget out over groups.

    Raises:
        SlimtabError: when an option is wrong, or even the smallest tables are larger.
    """
    kind.Config.check_options(options)
    least = [kind.Config.smallest_bytes(group.features, group.dim, **options) for group in groups]
    if sum(least) > nbytes:
        raise SlimtabError(
            f"{kind.method} cannot fit {format_bytes(nbytes)} ({nbytes} bytes): its smallest size here is "
            f"{format_bytes(sum(least))} ({sum(least)} bytes); raise the budget or choose another method"
        )
    return divide(nbytes, [group.full_bytes for group in groups], least, {})
