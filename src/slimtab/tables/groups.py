"""Groups of features, a method each: which features a rule takes, and how one budget is divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimtab.config import Rule
from slimtab.errors import SlimtabError, nearest
from slimtab.schema import Feature
from slimtab.sizes import Budget, format_bytes
from slimtab.tables.base import EmbeddingTable, TableConfig, get_method, in_last_stage
from slimtab.tables.rows.plain import PlainRows


@dataclass(frozen=True)
class Group:
    """One group.

    Attributes:
        slots: which features of the whole, ascending.
        method: registered name.
        config: its settings for those features.
    """

    slots: tuple[int, ...]
    method: str
    config: TableConfig


@dataclass(frozen=True)
class GroupedConfig(TableConfig):
    """Settings of :class:`Grouped`: those of its groups.

    Attributes:
        groups: by rule; each feature is in one of them.
    """

    by_budget = ("groups",)

    groups: tuple[Group, ...] = ()

    @classmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return the sum of what the groups need at least; ``rules`` is a list of :class:`Rule`."""
        return sum(
            get_method(rule.method).Config.smallest_bytes(
                [features[slot] for slot in slots], dim, **rule.options
            )
            for rule, slots in split_features(options["rules"], features)
        )

    @classmethod
    def for_budget(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> GroupedConfig:
        """Return the largest setting within ``nbytes``: see :meth:`TableConfig.for_budget`.

        Groups of ``full`` take what they need, groups with a budget of their own take that. The rest is
        divided by the bytes of the full tables, no group getting less than its smallest size; what a group of
        a fixed size leaves goes to the others.

        Args:
            features: the features of all groups.
            dim: output width.
            nbytes: limit on serving bytes.
            options: ``rules``, a list of :class:`Rule` whose last one takes every feature.
        """
        for rule, _ in split_features(options["rules"], features):
            get_method(rule.method).Config.check_options(rule.options)
        smallest = cls.smallest_bytes(features, dim, **options)
        if smallest > nbytes:
            raise SlimtabError(
                f"these rules cannot fit {format_bytes(nbytes)} ({nbytes} bytes): their smallest size here "
                f"is {format_bytes(smallest)} ({smallest} bytes); raise the budget or change the rules"
            )
        return cls._largest(features, dim, nbytes, **options)

    @classmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> GroupedConfig:
        parts = split_features(options["rules"], features)
        served = [[features[slot] for slot in slots] for _, slots in parts]
        full = [4 * dim * sum(feature.num_ids for feature in group) for group in served]
        least = [
            get_method(rule.method).Config.smallest_bytes(group, dim, **rule.options)
            for (rule, _), group in zip(parts, served, strict=True)
        ]
        settled = {
            number: size if rule.budget is None else Budget.parse(rule.budget).resolve(size)
            for number, ((rule, _), size) in enumerate(zip(parts, full, strict=True))
            if rule.method == "full" or rule.budget is not None
        }
        if sum(settled.values()) > nbytes:
            raise SlimtabError(
                f"these rules ask for {sum(settled.values())} bytes of a budget of {nbytes}; lower theirs"
            )
        while True:
            given = divide(nbytes, full, least, settled)
            configs = [
                get_method(rule.method).Config.for_budget(group, dim, size, **rule.options)
                for (rule, _), group, size in zip(parts, served, given, strict=True)
            ]
            used = [
                served_bytes(get_method(rule.method), config, group, dim)
                for (rule, _), config, group in zip(parts, configs, served, strict=True)
            ]
            sated = {
                number: used[number]
                for number in range(len(parts))
                if number not in settled and used[number] < 0.95 * given[number]
            }
            if not sated or len(settled) + len(sated) == len(parts):
                break
            settled |= sated
        groups = [
            Group(tuple(slots), rule.method, config)
            for (rule, slots), config in zip(parts, configs, strict=True)
        ]
        return cls(groups=tuple(groups))


def split_features(rules: Sequence[Rule], features: Sequence[Feature]) -> list[tuple[Rule, list[int]]]:
    """Return the rules that serve any feature, each with its slots; the first that fits a feature wins."""
    names = {feature.name for feature in features}
    for rule in rules:
        for name in rule.features:
            if name not in names:
                raise SlimtabError(f"a rule names feature '{name}', which is none{nearest(name, names)}")
    slots: list[list[int]] = [[] for _ in rules]
    for slot, feature in enumerate(features):
        slots[next(n for n, rule in enumerate(rules) if _takes(rule, feature))].append(slot)
    return [(rule, mine) for rule, mine in zip(rules, slots, strict=True) if mine]


def _takes(rule: Rule, feature: Feature) -> bool:
    return feature.num_ids >= rule.min_ids and (not rule.features or feature.name in rule.features)


def divide(nbytes: int, full: Sequence[int], least: Sequence[int], settled: Mapping[int, int]) -> list[int]:
    """Divide ``nbytes`` by ``full``: settled groups get their size, the others ``least`` or more."""
    given = {**settled}
    open_ = [number for number in range(len(full)) if number not in given]
    while open_:
        left, weight = nbytes - sum(given.values()), sum(full[number] for number in open_)
        low = [number for number in open_ if left * full[number] // weight < least[number]]
        if not low:
            given |= {number: left * full[number] // weight for number in open_}
            break
        given |= {number: least[number] for number in low}
        open_ = [number for number in open_ if number not in low]
    return [given[number] for number in range(len(full))]


def served_bytes(
    table: type[EmbeddingTable], config: TableConfig, features: Sequence[Feature], dim: int
) -> int:
    """Return the bytes that a table will serve when it is trained; nothing is allocated."""
    with torch.device("meta"):
        return in_last_stage(table(config, features, dim, PlainRows, 0.0)).serve_bytes()
