"""Several methods under one budget: rules say which features each of them serves.

"Features over 10,000 ids: qr, the rest full" is one rule. The group of each method is a table of its own;
:class:`Grouped` sends ids to them and puts their vectors together again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.config import Rule
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.sizes import Budget
from slimtab.tables.base import (
    Clock,
    EmbeddingTable,
    FrozenTable,
    TableConfig,
    get_method,
)
from slimtab.tables.groups import Group, GroupedConfig, split_features
from slimtab.tables.rows.base import RowsFactory


class Grouped(EmbeddingTable):
    """A table per group. It is made by rules and no method of its own."""

    method = "grouped"
    kind = "several"
    paper = ""
    hashes_ids = spreads = True  # each group looks for itself
    Config = GroupedConfig

    def __init__(
        self,
        config: GroupedConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """See :class:`~slimtab.tables.base.EmbeddingTable`."""
        super().__init__(config, features, dim, make_rows, init_std)
        self.groups = config.groups
        kinds = [get_method(group.method) for group in config.groups]
        tables = [
            kind(
                group.config,
                [features[slot] for slot in group.slots],
                dim,
                kind.rows_from(make_rows),
                init_std,
            )
            for kind, group in zip(kinds, config.groups, strict=True)
        ]
        self.tables = nn.ModuleList(tables)
        self.routes = _Routes([group.slots for group in config.groups])
        # Groups stand in the same stage by number, a group with fewer stages in its last.
        last = max(len(table.stages) for table in tables)
        names = [dict.fromkeys(t.stages[min(k, len(t.stages) - 1)] for t in tables) for k in range(last)]
        # These depend on the groups, where other classes know them beforehand.
        self.stages = tuple("+".join(name) for name in names)  # type: ignore[misc]
        self.rewinds = self._rewinds()  # type: ignore[misc]
        self.by_frequency = any(table.by_frequency for table in tables)  # type: ignore[misc]
        self.costly = any(table.costly for table in tables)  # type: ignore[misc]
        self.stage, self.width = self.stages[0], self._width()

    def _tables(self) -> list[EmbeddingTable]:
        return list(self.tables)  # type: ignore[arg-type]

    def _rewinds(self) -> tuple[str, ...]:
        """Return the stages at which any group, and with it the whole model, begins anew."""
        building = [table.method for table in self._tables() if table.stages[1:] and not table.rewinds]
        for table in self._tables():
            if table.rewinds and building:
                raise SlimtabError(
                    f"rules cannot join {table.method}, whose model starts anew between its stages, with "
                    f"{building[0]}, which goes on from what it trained; choose one of them"
                )
        return tuple(
            stage for stage in self.stages if any(own in table.rewinds for table, own in self._moving(stage))
        )

    def _width(self) -> int:
        return max(table.width for table in self._tables())

    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width], those of narrower groups padded with zeros."""
        group, inside = self.routes(slot)
        out = torch.zeros(len(ids), self.width, device=ids.device)
        for number, table in enumerate(self._tables()):
            mine = (group == number).nonzero().squeeze(1)
            vectors = table(ids[mine], inside[mine])
            out = out.index_copy(0, mine, F.pad(vectors, (0, self.width - table.width)))
        return out

    def project(self, pooled: Tensor) -> Tensor:
        """Apply each group's own projection to the width that is its own."""
        return self.routes.project(pooled, self._tables())

    def freeze(self) -> FrozenTable:
        """Return the frozen groups."""
        return FrozenGrouped(
            self.routes,
            [table.freeze() for table in self._tables()],
            [table.width for table in self._tables()],
            self._names(),
        )

    def penalty(self) -> Tensor | None:
        """Return the sum over groups."""
        penalties = [penalty for table in self._tables() if (penalty := table.penalty()) is not None]
        return torch.stack(penalties).sum() if penalties else None

    def row_like(self) -> list[tuple[nn.Parameter, int]]:
        """Return those of all groups."""
        return [pair for table in self._tables() for pair in table.row_like()]

    def use_counts(self, counts: Tensor) -> None:
        """Give each group the counts of its features."""
        each = torch.split(counts, [feature.num_ids for feature in self.features])
        for group, table in zip(self.groups, self._tables(), strict=True):
            table.use_counts(torch.cat([each[slot] for slot in group.slots]))

    def by_sgd(self) -> list[tuple[nn.Parameter, float]]:
        """Return those of all groups."""
        return [pair for table in self._tables() for pair in table.by_sgd()]

    def by_validation(self) -> list[tuple[nn.Parameter, float]]:
        """Return those of all groups."""
        return [pair for table in self._tables() for pair in table.by_validation()]

    def measured(self) -> list[Tensor]:
        """Return those of all groups."""
        return [buffer for table in self._tables() for buffer in table.measured()]

    def on_step(self, clock: Clock) -> None:
        """Tell all groups."""
        for table in self._tables():
            table.on_step(clock)

    def end_stage(self, clock: Clock) -> None:
        """Tell the groups whose stage is over, which are those that have another."""
        following = self.stages[self.stages.index(self.stage) + 1]
        for table, _ in self._moving(following):
            table.end_stage(clock)

    def choose(self, stage: str) -> None:
        """Let each group that has one more stage choose what it will be."""
        for table, own in self._moving(stage):
            table.choose(own)
        groups = zip(self.groups, self._tables(), strict=True)
        self.adopt(GroupedConfig(tuple(replace(group, config=table.config) for group, table in groups)))

    def adopt(self, config: TableConfig) -> None:
        """Give each group its own."""
        super().adopt(config)
        assert isinstance(config, GroupedConfig)
        self.groups = config.groups
        for group, table in zip(self.groups, self._tables(), strict=True):
            table.adopt(group.config)

    def set_stage(self, stage: str) -> None:
        """Enter a stage with each group that has one more."""
        for table, own in self._moving(stage):
            table.set_stage(own)
        super().set_stage(stage)
        self.width = self._width()

    def _moving(self, stage: str) -> list[tuple[EmbeddingTable, str]]:
        """Return the groups that enter another stage with this one, and which."""
        number = self.stages.index(stage)
        own = [(table, table.stages[min(number, len(table.stages) - 1)]) for table in self._tables()]
        return [(table, name) for table, name in own if name != table.stage]

    def learning_rates(self) -> tuple[float, float]:
        """Return the smallest factors any group asks for: there is one optimizer for all."""
        network, rows = zip(*(table.learning_rates() for table in self._tables()), strict=True)
        return min(network), min(rows)

    def stats(self) -> dict[str, float]:
        """Return the figures of all groups, as ``0_qr/rows``."""
        return _joined(self._names(), self._tables())

    def _names(self) -> list[str]:
        return [f"{number}_{table.method}" for number, table in enumerate(self._tables())]

    def stats_by_feature(self) -> dict[str, dict[str, float]]:
        """Return the figures of all groups; a feature has those that its group knows."""
        joined: dict[str, dict[str, float]] = {}
        for table in self._tables():
            for name, values in table.stats_by_feature().items():
                joined.setdefault(name, {}).update(values)
        return joined

    def bytes_by_feature(self) -> list[int]:
        """Return what each group says of its features."""
        nbytes = [0] * len(self.features)
        for group, table in zip(self.groups, self._tables(), strict=True):
            for slot, size in zip(group.slots, table.bytes_by_feature(), strict=True):
                nbytes[slot] = size
        return nbytes


class _Routes(nn.Module):
    """Which group serves a slot, and which slot it is there. The config says so: nothing of it is stored."""

    group: Tensor
    inside: Tensor
    place: Tensor

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        slots = [slot for group in groups for slot in group]
        number = [n for n, group in enumerate(groups) for _ in group]
        inside = [place for group in groups for place in range(len(group))]
        self.slots = [list(group) for group in groups]
        by_slot = sorted(range(len(slots)), key=lambda place: slots[place])
        for name, values in (("group", number), ("inside", inside), ("place", list(range(len(slots))))):
            self.register_buffer(name, torch.tensor([values[at] for at in by_slot]), persistent=False)

    def forward(self, slot: Tensor) -> tuple[Tensor, Tensor]:
        """Return group [N] and slot within it [N] for ``slot`` [N]."""
        return self.group[slot], self.inside[slot]

    def project(self, pooled: Tensor, tables: Sequence[EmbeddingTable | _Padded]) -> Tensor:
        """Project [B, F, width] to [B, F, dim] with each group's ``project``."""
        parts = [
            table.project(pooled[:, slots, : table.width])
            for slots, table in zip(self.slots, tables, strict=True)
        ]
        return torch.cat(parts, dim=1).index_select(1, self.place)


class _Padded(nn.Module):
    """A frozen group and the width of its vectors."""

    def __init__(self, table: FrozenTable, width: int) -> None:
        super().__init__()
        self.table, self.width = table, width

    def forward(self, ids: Tensor, slot: Tensor, width: int) -> Tensor:
        return F.pad(self.table(ids, slot), (0, width - self.width))

    def project(self, pooled: Tensor) -> Tensor:
        return self.table.project(pooled)


class FrozenGrouped(FrozenTable):
    """Frozen groups. Each is asked for every id, so that shapes do not depend on the ids."""

    def __init__(
        self, routes: _Routes, tables: Sequence[FrozenTable], widths: Sequence[int], names: Sequence[str]
    ) -> None:
        super().__init__()
        self.routes, self.width, self.names = routes, max(widths), tuple(names)
        self.tables = nn.ModuleList(map(_Padded, tables, widths))
        self.costly = any(table.costly for table in tables)  # type: ignore[misc]

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width]."""
        group, inside = self.routes(slot)
        out = torch.zeros(1, self.width, device=ids.device)
        for number, table in enumerate(self.tables):
            mine = group == number
            # Ids of other groups read id 0 of this group's first feature: one row, near at hand.
            vectors = table(torch.where(mine, ids, 0), torch.where(mine, inside, 0), self.width)
            out = torch.where(mine[:, None], vectors, out)
        return out

    def project(self, pooled: Tensor) -> Tensor:
        """Apply each group's own projection to the width that is its own."""
        return self.routes.project(pooled, list(self.tables))  # type: ignore[arg-type]

    def stats(self) -> dict[str, float]:
        """Return the figures of all groups, named as those of :class:`Grouped`."""
        return _joined(self.names, [padded.table for padded in self.tables])  # type: ignore[misc]


def group_tables(slots: Sequence[Sequence[int]], tables: Sequence[FrozenTable], dim: int) -> FrozenGrouped:
    """Return frozen tables of one width, each for the features ``slots`` of the whole, as one."""
    routes = _Routes(slots)
    return FrozenGrouped(routes, tables, [dim] * len(tables), [str(number) for number in range(len(tables))])


def _joined(names: Sequence[str], tables: Sequence[EmbeddingTable | FrozenTable]) -> dict[str, float]:
    """Return the figures of all tables under their names."""
    return {
        f"{group}/{name}": figure
        for group, table in zip(names, tables, strict=True)
        for name, figure in table.stats().items()
    }


def size_table(
    features: Sequence[Feature],
    dim: int,
    nbytes: int,
    method: str,
    options: Mapping[str, Any] | None = None,
    rules: Sequence[Rule] = (),
) -> Callable[[RowsFactory, float], EmbeddingTable]:
    """Size a method, or several by rules, and return what builds the table from rows and a start deviation.

    Args:
        features: the group, in slot order.
        dim: output width.
        nbytes: limit on serving bytes.
        method: of the features that no rule takes.
        options: fields of that method's config.
        rules: the first that fits a feature takes it.

    Raises:
        SlimtabError: when a method or option is unknown, or the budget cannot be reached.
    """
    all_rules = [*rules, Rule(method, 0, dict(options or {}))]
    parts = split_features(all_rules, features)
    if any(rule.method == "auto" for rule, _ in parts):
        raise SlimtabError(
            "auto plans from what it trains on a dataset's rows; use `slimtab train --method auto`"
        )
    kind: type[EmbeddingTable]
    config: TableConfig
    if len(parts) == 1:
        rule = parts[0][0]
        kind = get_method(rule.method)
        if rule.budget is not None:
            full = 4 * dim * sum(feature.num_ids for feature in features)
            nbytes = min(nbytes, Budget.parse(rule.budget).resolve(full))
        config = kind.Config.for_budget(features, dim, nbytes, **rule.options)
    else:
        kind, config = Grouped, GroupedConfig.for_budget(features, dim, nbytes, rules=all_rules)
    return lambda make_rows, init_std: kind(config, features, dim, kind.rows_from(make_rows), init_std)


def read_config(method: str, plain: Mapping[str, Any]) -> tuple[type[EmbeddingTable], TableConfig]:
    """Return a table's class and config from the plain values that JSON holds."""
    if method == Grouped.method:
        groups = [
            Group(tuple(group["slots"]), group["method"], read_config(group["method"], group["config"])[1])
            for group in plain["groups"]
        ]
        return Grouped, GroupedConfig(groups=tuple(groups))
    table = get_method(method)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    return table, table.Config(**values)
