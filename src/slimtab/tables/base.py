"""The contract every embedding table keeps, and the registry methods enter by being defined."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from itertools import accumulate
from typing import Any, ClassVar

from torch import Tensor, nn

from slimtab.errors import SlimtabError, nearest
from slimtab.registry import import_modules
from slimtab.schema import Feature
from slimtab.sizes import format_bytes
from slimtab.tables.rows.base import RowsFactory

_METHODS: dict[str, type[EmbeddingTable]] = {}


def check_fits(name: str, smallest: int, full: int, nbytes: int) -> None:
    """See that a method's smallest size is within ``nbytes``.

    Raises:
        SlimtabError: when it is not, naming it in bytes and as a share of ``full``.
    """
    if smallest > nbytes:
        share = math.ceil(1e4 * smallest / full) / 100  # rounded up: this share is enough
        raise SlimtabError(
            f"{name} cannot fit {format_bytes(nbytes)} ({nbytes} bytes): "
            f"its smallest size here is {format_bytes(smallest)} "
            f"({smallest} bytes, {share:.2f}% of full); raise the budget or choose another method"
        )


@dataclass(frozen=True)
class Clock:
    """Where training stands, for schedules.

    Attributes:
        step: steps done in the current stage.
        steps_per_epoch: steps of one pass over the training rows.
        total: steps the stage has at most; early stopping usually ends it sooner.
    """

    step: int
    steps_per_epoch: int
    total: int


@dataclass(frozen=True)
class TableConfig(abc.ABC):
    """The settings of one method. Subclasses add fields; all of them are plain values that YAML can hold.

    Attributes:
        by_budget: names of the fields that :meth:`for_budget` chooses, which are no options.
    """

    by_budget: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abc.abstractmethod
    def smallest_bytes(cls, features: Sequence[Feature], dim: int, **options: Any) -> int:
        """Return the fewest serving bytes this method can make of ``features`` at width ``dim``."""

    @classmethod
    @abc.abstractmethod
    def _largest(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> TableConfig:
        """Return the largest setting within ``nbytes``, which is no less than :meth:`smallest_bytes`."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Check names and types of options.

        Raises:
            SlimtabError: when one is unknown or of another type than its default.
        """
        name = cls._name()
        known = {f.name: f.default for f in dataclasses.fields(cls) if f.name not in cls.by_budget}
        for option, value in options.items():
            if option not in known:
                raise SlimtabError(f"{name} has no option '{option}'{nearest(option, known)}")
            default: Any = known[option]
            like = list(default) if isinstance(default, tuple) else default  # YAML has lists
            if type(value) is not type(like):
                raise SlimtabError(f"{name}'s option '{option}' is {value!r}; give one like {like!r}")

    @classmethod
    def _name(cls) -> str:
        return cls.__qualname__.removesuffix("Config").rstrip(".").lower()

    @classmethod
    def for_budget(cls, features: Sequence[Feature], dim: int, nbytes: int, **options: Any) -> TableConfig:
        """Return the largest setting whose serving bytes do not exceed ``nbytes``.

        Args:
            features: the group the table will serve.
            dim: output width.
            nbytes: limit on serving bytes, every index and seed counted.
            options: fields of this config that are not to be chosen by the budget.

        Raises:
            SlimtabError: when an option is unknown or of another type than its default, or when even the
                smallest setting is larger, naming it.
        """
        cls.check_options(options)
        full = 4 * dim * sum(feature.num_ids for feature in features)
        check_fits(cls._name(), cls.smallest_bytes(features, dim, **options), full, nbytes)
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return cls._largest(features, dim, nbytes, **plain)


class FrozenTable(nn.Module, abc.ABC):
    """A table for serving: buffers only, torch alone. Persistent buffers are what the file holds.

    What the schema already says (offsets, numbers of ids) is kept in non-persistent buffers: it is
    rebuilt on loading and takes no bytes in the file.
    """

    costly: ClassVar[bool] = False  # see EmbeddingTable
    codebooks: ClassVar[tuple[str, ...]] = ()  # buffers of floats that rows share, which may be fine-tuned

    @abc.abstractmethod
    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width] for ``ids`` [N] int64 of the features ``slot`` [N] int64."""

    def project(self, pooled: Tensor) -> Tensor:
        """Turn pooled vectors [B, F, width] into [B, F, dim]; see :meth:`EmbeddingTable.project`."""
        return pooled

    def stats(self) -> dict[str, float]:
        """Return figures of what is served, for dashboards; they may take a pass over all ids."""
        return {}

    def serve_bytes(self) -> int:
        """Bytes of everything a lookup needs."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())


class EmbeddingTable(nn.Module, abc.ABC):
    """Vectors for the ids of a group of features.

    A table never sees jagged data: pooling, weights and id checks belong to the collection. Subclass it
    with ``class QR(EmbeddingTable, method="qr")`` and a nested ``Config``; that registers the method.

    Attributes:
        method: registered name.
        kind: class of the method, for listings (``static sharing``, ``width``, …).
        paper: where the method comes from.
        stages: what training walks through, each until validation gets no better.
        rewinds: those stages that begin from the model's start values, with what :meth:`choose` decided.
        hashes_ids: whether ids may be 64-bit hashes; otherwise they number the vocabulary of a feature.
        by_frequency: whether the method treats frequent ids differently. It takes ids to be numbered by
            falling frequency, as `slimtab prep` does, and so needs no index of its own for that.
        costly: whether a lookup costs so much more than a read that ids are made distinct for it in eval too.
        whole_batch: whether a lookup learns from all ids of the batch beside their gradients, so that ranks,
            of which each has some rows of it, must look up those of all.
        begins_full: whether its first stage trains what ``full`` does, to the last bit.
        spreads: whether its rows are only ever read by number until it is frozen, so that over ranks each may
            hold some of them. Otherwise all of them stand on each.
        Config: the method's settings.
        config: settings, with what later stages chose.
        stage: the stage the table is in.
        features: the group served, in slot order.
        dim: output width.
        width: width of what :meth:`lookup` returns, before :meth:`project`.
    """

    method: ClassVar[str]
    kind: ClassVar[str]
    paper: ClassVar[str]
    stages: ClassVar[tuple[str, ...]] = ("train",)
    rewinds: ClassVar[tuple[str, ...]] = ()
    hashes_ids: ClassVar[bool] = False
    by_frequency: ClassVar[bool] = False
    costly: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False
    begins_full: ClassVar[bool] = False
    spreads: ClassVar[bool] = False
    Config: ClassVar[type[TableConfig]]

    def __init_subclass__(cls, method: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if method is None:
            return
        other = _METHODS.get(method)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise SlimtabError(
                f"method '{method}' is already {other.__module__}.{other.__qualname__}; "
                f"give {cls.__module__}.{cls.__qualname__} another name"
            )
        cls.method = method
        _METHODS[method] = cls

    def __init__(
        self,
        config: TableConfig,
        features: Sequence[Feature],
        dim: int,
        make_rows: RowsFactory,
        init_std: float,
    ) -> None:
        """Build the table.

        Args:
            config: settings, usually from ``Config.for_budget``.
            features: the group, in slot order.
            dim: output width.
            make_rows: makes the storage of looked-up rows.
            init_std: standard deviation each output coordinate starts with.

        Raises:
            SlimtabError: when a feature's ids are hashes and the method cannot take them.
        """
        super().__init__()
        for feature in features:
            if feature.encoding == "hash" and not self.hashes_ids:
                raise SlimtabError(
                    f"feature '{feature.name}' has hashed ids, and {self.method} needs numbered ones; "
                    "choose hash or unified, or prepare with --ids vocab"
                )
        self.config, self.features, self.dim = config, tuple(features), dim
        self.width, self.stage = dim, self.stages[0]

    @classmethod
    def rows_from(cls, make_rows: RowsFactory) -> RowsFactory:
        """Return what makes rows for this method, from what makes rows for any."""
        return make_rows if cls.spreads else make_rows.together()

    @abc.abstractmethod
    def lookup(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Return vectors [N, width] float32 for ``ids`` [N] int64 of the features ``slot`` [N] int64."""

    def forward(self, ids: Tensor, slot: Tensor) -> Tensor:
        """Call :meth:`lookup`, so that a table and its frozen form are called alike."""
        return self.lookup(ids, slot)

    def project(self, pooled: Tensor) -> Tensor:
        """Turn pooled vectors [B, F, width] into [B, F, dim]: a linear map per feature, none by default.

        It comes after pooling because a linear map commutes with sum and mean, and costs less there.
        """
        return pooled

    @abc.abstractmethod
    def freeze(self) -> FrozenTable:
        """Return the table for serving; it equals this one in eval mode on every id."""

    def penalty(self) -> Tensor | None:
        """Return what the method adds to the loss, a scalar, or None."""
        return None

    def by_sgd(self) -> list[tuple[nn.Parameter, float]]:
        """Return parameters that plain SGD moves, such as thresholds, each with its learning rate."""
        return []

    def by_validation(self) -> list[tuple[nn.Parameter, float]]:
        """Return parameters of this stage that learn from validation rows alone, with learning rates.

        Plain SGD moves them, a step before each step of all others on training rows: bilevel learning in
        first order.
        """
        return []

    def row_like(self) -> list[tuple[nn.Parameter, int]]:
        """Return the parameters that stand for rows, each with how many of them a vector is the product of.

        They take the rows' learning rate, and their share of the rows' decay: what nothing touches shrinks
        as a row would. All other parameters of the table move as the dense network does.
        """
        return []

    def use_counts(self, counts: Tensor) -> None:
        """Take how often the training rows hold each id [Σ num_ids] int64, feature after feature.

        Called once, before training, where the counts are known.
        """

    def start_from(self, weight: Tensor) -> bool:
        """Begin from trained full tables [Σ num_ids, dim], feature after feature, where the method can.

        Returns:
            Whether it did; otherwise the table keeps its start values.
        """
        return False

    def on_step(self, clock: Clock) -> None:
        """Follow a schedule: called before each training step."""

    def end_stage(self, clock: Clock) -> None:
        """Note how long the stage that is over took: called with its best weights, before :meth:`choose`."""

    def choose(self, stage: str) -> None:
        """Decide what ``stage`` will look like, from the trained weights of the stage before it.

        Plain values go into :attr:`config`. Tensors go into buffers that were None until now: start values,
        to which a stage may rewind, do not have them, and so leave them as they are.
        """

    def adopt(self, config: TableConfig) -> None:
        """Take a config that :meth:`choose` filled in earlier, before the stages it is for are entered."""
        self.config = config

    def set_stage(self, stage: str) -> None:
        """Enter one of :attr:`stages`, in their order, after the best weights of the stage before it.

        Shapes may change here, by config alone; where :meth:`choose` was not called before, it is now. A
        resumed training calls this on untrained weights, after :meth:`adopt`, and then loads those of the
        checkpoint over what it made.
        """
        self.stage = stage

    def learning_rates(self) -> tuple[float, float]:
        """Return factors on the learning rates of the dense network and of rows in this stage."""
        return 1.0, 1.0

    def measured(self) -> list[Tensor]:
        """Return buffers that a training step measures on rows of its batch; over ranks one rank's count."""
        return []

    def search_space(self) -> dict[str, Sequence[Any]]:
        """Return config fields a study may vary, each with the values worth trying."""
        return {}

    def stats(self) -> dict[str, float]:
        """Return figures for dashboards.

        They are asked for at each validation: at most a pass over the rows, as a checkpoint takes.
        """
        return {}

    def stats_by_feature(self) -> dict[str, dict[str, float]]:
        """Return figures that each feature has of its own, as ``{"width": {"C1": 4}}``.

        Names that methods share: ``width`` of rows; ``rows_kept`` and ``elements_kept``, shares of all. They
        are asked for at each validation, as :meth:`stats` is.
        """
        return {}

    def named(self, values: Iterable[float]) -> dict[str, float]:
        """Return ``values``, one for each feature in slot order, by the features' names."""
        return {feature.name: value for feature, value in zip(self.features, values, strict=True)}

    def serve_bytes(self) -> int:
        """Bytes of the frozen table: summed over its buffers."""
        return self.freeze().serve_bytes()

    def bytes_by_feature(self) -> list[int]:
        """Split :meth:`serve_bytes` over the features; where they share storage, by their numbers of ids."""
        total, ids = self.serve_bytes(), [feature.num_ids for feature in self.features]
        edges = [total * upto // sum(ids) for upto in accumulate(ids, initial=0)]
        return [stop - start for start, stop in itertools.pairwise(edges)]


def in_last_stage(table: EmbeddingTable) -> EmbeddingTable:
    """Walk a new table through its stages, to the shapes that are served."""
    for stage in table.stages[1:]:
        table.set_stage(stage)
    return table


def methods() -> dict[str, type[EmbeddingTable]]:
    """Return all methods by name: slimtab's own, then those of the entry-point group ``slimtab.tables``."""
    import_modules("slimtab.tables")
    for entry in entry_points(group="slimtab.tables"):
        entry.load()
    return dict(sorted(_METHODS.items()))


def get_method(name: str) -> type[EmbeddingTable]:
    """Return the class of a method.

    Raises:
        SlimtabError: when no method has that name, naming the nearest.
    """
    known = methods()
    if name not in known:
        raise SlimtabError(f"no method '{name}'{nearest(name, known)}")
    return known[name]
