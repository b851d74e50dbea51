"""Compression inside somebody else's model: ``slimtab.compress(model, method="qr", budget="10%")``.

Every large `nn.Embedding` and `nn.EmbeddingBag` is replaced in place by a module that is called alike. The
bags inside torchrec's `EmbeddingBagCollection` are ordinary ones, so collections need no case of their own
and keep their configs, feature names and weights. All replaced modules of one width share one table, each
as a feature of it, so that methods which share storage over features do so here too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.sizes import Budget, format_bytes
from slimtab.tables.base import EmbeddingTable, get_method
from slimtab.tables.distinct import distinct
from slimtab.tables.grouped import divide, served_bytes
from slimtab.tables.rows import PlainRows

_Source = nn.Embedding | nn.EmbeddingBag


@dataclass
class Report:
    """What :func:`compress` did.

    Attributes:
        full_bytes: of what was replaced.
        serve_bytes: of what stands there now, when frozen.
        replaced: names of the modules replaced.
        left: names of embeddings left as they are, with the reason.
        kept_weights: those of the replaced that go on from their trained weights; the others start anew.
        now_dense: those that had ``sparse=True`` and now have ordinary gradients: torch.optim.SparseAdam
            cannot train them.
        tables: the tables, one per width.
        todo: what the model's own training code must still do; empty for most methods.
    """

    full_bytes: int = 0
    serve_bytes: int = 0
    replaced: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    kept_weights: list[str] = field(default_factory=list)
    now_dense: list[str] = field(default_factory=list)
    tables: list[EmbeddingTable] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{len(self.replaced)} embeddings replaced: {format_bytes(self.full_bytes)} are now "
            f"{format_bytes(self.serve_bytes)}; {len(self.kept_weights)} keep their trained weights"
        ]
        lines += [f"left as it is: {name} ({reason})" for name, reason in self.left.items()]
        lines += [f"has dense gradients now: {name}" for name in self.now_dense]
        return "\n".join([*lines, *(f"to do: {todo}" for todo in self.todo)])


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
    found = _find(model, min_ids, skip, report)
    if not found:
        raise SlimtabError(
            f"the model holds no embedding of {min_ids} rows or more to replace; lower min_ids"
        )
    groups: dict[int, dict[str, list[_Source]]] = {}
    for name, modules in found.items():
        groups.setdefault(modules[0].embedding_dim, {})[name] = modules
    served = [
        [Feature(name, modules[0].num_embeddings) for name, modules in group.items()]
        for group in groups.values()
    ]
    full = [
        4 * dim * sum(feature.num_ids for feature in features)
        for dim, features in zip(groups, served, strict=True)
    ]
    report.full_bytes = sum(full)
    nbytes = Budget.parse(budget).resolve(report.full_bytes)
    options = dict(options or {})
    kind.Config.check_options(options)
    least = [
        kind.Config.smallest_bytes(features, dim, **options)
        for dim, features in zip(groups, served, strict=True)
    ]
    if sum(least) > nbytes:
        raise SlimtabError(
            f"{method} cannot fit {format_bytes(nbytes)} ({nbytes} bytes): its smallest size here is "
            f"{format_bytes(sum(least))} ({sum(least)} bytes); raise the budget or choose another method"
        )
    instead: dict[_Source, nn.Module] = {}
    for (dim, group), features, size in zip(
        groups.items(), served, divide(nbytes, full, least, {}), strict=True
    ):
        config = kind.Config.for_budget(features, dim, size, **options)
        weights = torch.cat([modules[0].weight.detach() for modules in group.values()])
        table = kind(config, features, dim, PlainRows, float(weights.float().std(correction=0)))
        table.to(weights.device)
        if table.start_from(weights):
            report.kept_weights += list(group)
        report.tables.append(table)
        report.serve_bytes += served_bytes(kind, config, features, dim)
        owns = True
        for slot, modules in enumerate(group.values()):
            for module in modules:
                drop_in = _Bags if isinstance(module, nn.EmbeddingBag) else _Vectors
                instead[module] = drop_in(module, table, slot, owns)
                owns = False
    report.todo = [line for number, table in enumerate(report.tables) for line in _todo(table, number)]
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if isinstance(child, _Source) and child in instead:
                parent._modules[key] = instead[child]
    return report


def _find(model: nn.Module, min_ids: int, skip: Collection[str], report: Report) -> dict[str, list[_Source]]:
    """Return what is to be replaced by name: modules that share a weight stand together."""
    names = dict(model.named_modules())
    unknown = sorted(set(skip) - set(names))
    if unknown:
        raise SlimtabError(f"the model has no module '{unknown[0]}' to skip; see model.named_modules()")
    sources: dict[Tensor, list[_Source]] = {}
    elsewhere = set()
    for module in names.values():
        if _is_plain(module):
            sources.setdefault(module.weight, []).append(module)
        else:
            elsewhere.update(module.parameters(recurse=False))
    name_of = {module: name for name, module in names.items()}
    found = {}
    for weight, modules in sources.items():
        called = [name_of[module] for module in modules]
        reason = None
        if set(called) & set(skip):
            reason = "skipped"
        elif len(weight) < min_ids:
            reason = f"{len(weight)} rows"
        elif weight in elsewhere:
            reason = "its weight is used outside of embeddings too"
        elif not weight.requires_grad:
            reason = "its weight is not trained"
        if reason:
            report.left |= dict.fromkeys(called, reason)
            continue
        for name, module in zip(called, modules, strict=True):
            _check(name, module)
            report.now_dense += [name] if module.sparse else []
        report.replaced += called
        found[called[0]] = modules
    return found


def _is_plain(module: nn.Module) -> bool:
    """Whether a module looks ids up as torch does; a subclass with a forward of its own may not."""
    return any(
        isinstance(module, kind) and type(module).forward is kind.forward
        for kind in (nn.Embedding, nn.EmbeddingBag)
    )


def _check(name: str, module: _Source) -> None:
    where = f"'{name}'" if name else "the model itself"
    if not name:
        raise SlimtabError("the model itself is an embedding, which cannot be replaced in place; wrap it")
    for setting in ("max_norm", "scale_grad_by_freq"):
        if getattr(module, setting):
            raise SlimtabError(
                f"{where} has {setting}, which compressed rows cannot keep; skip it or unset it"
            )
    if isinstance(module, nn.EmbeddingBag) and module.mode == "max":
        raise SlimtabError(
            f"{where} takes the maximum over bags, and only sum and mean are known here; skip it"
        )


def _todo(table: EmbeddingTable, number: int) -> Iterator[str]:
    kind, name = type(table), f"report.tables[{number}]"
    for stage in kind.stages[1:]:
        yield f"enter the next stage of training with {name}.set_stage('{stage}') and a new optimizer"
    if kind.penalty is not EmbeddingTable.penalty:
        yield f"add {name}.penalty() to the loss, unless it is None"
    if kind.on_step is not EmbeddingTable.on_step:
        yield f"call {name}.on_step(slimtab.tables.base.Clock(step, steps_per_epoch, total)) before each step"


class _DropIn(nn.Module):
    """What both kinds share. One of the drop-ins of a table owns it; the others know it by reference only.

    So parameters and state stand in the model once, whatever the number of modules that read them.
    """

    table: EmbeddingTable

    def __init__(self, source: _Source, table: EmbeddingTable, slot: int, owns: bool) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = source.num_embeddings, source.embedding_dim
        self.padding_idx, self.slot, self.dtype = source.padding_idx, slot, source.weight.dtype
        self.projects = type(table).project is not EmbeddingTable.project
        if owns:
            self.table = table
        else:
            object.__setattr__(self, "table", table)
        self.train(source.training)

    def look_up(self, ids: Tensor) -> Tensor:
        """Return vectors [N, width] for ``ids`` [N], each distinct id looked up once while it is trained."""
        ids = ids.long()
        if len(ids) and bool(((ids < 0) | (ids >= self.num_embeddings)).any()):
            wrong = int(ids[(ids < 0) | (ids >= self.num_embeddings)][0])
            name = self.table.features[self.slot].name
            raise IndexError(f"id {wrong} of embedding '{name}' is outside 0 … {self.num_embeddings - 1}")
        if not (torch.is_grad_enabled() or self.table.costly):
            return self.table(ids, torch.full_like(ids, self.slot))  # type: ignore[no-any-return]
        each = distinct(ids)
        return each.expand(self.table(each.values, torch.full_like(each.values, self.slot)))

    def finish(self, vectors: Tensor) -> Tensor:
        """Project [B, width] to [B, dim] where the method does."""
        if self.projects:
            whole = vectors.new_zeros(len(vectors), len(self.table.features), vectors.shape[1])
            at = torch.tensor([self.slot], device=vectors.device)
            vectors = self.table.project(whole.index_copy(1, at, vectors[:, None]))[:, self.slot]
        return vectors.to(self.dtype)

    def extra_repr(self) -> str:
        """Show what an embedding shows."""
        return f"{self.num_embeddings}, {self.embedding_dim}, method={self.table.method}"


class _Vectors(_DropIn):
    """Stands for `nn.Embedding`."""

    padding: Tensor | None

    def __init__(self, source: _Source, table: EmbeddingTable, slot: int, owns: bool) -> None:
        super().__init__(source, table, slot, owns)
        padding = None if self.padding_idx is None else source.weight.detach()[self.padding_idx].clone()
        self.register_buffer("padding", padding)

    def forward(self, input: Tensor) -> Tensor:
        """Return vectors [..., dim] for ids of any shape; that of ``padding_idx`` is fixed, as in torch."""
        vectors = self.finish(self.look_up(input.reshape(-1))).view(*input.shape, self.embedding_dim)
        if self.padding is not None and self.padding_idx is not None:
            vectors = torch.where(input.eq(self.padding_idx)[..., None], self.padding, vectors)
        return vectors


class _Bags(_DropIn):
    """Stands for `nn.EmbeddingBag`."""

    def __init__(self, source: _Source, table: EmbeddingTable, slot: int, owns: bool) -> None:
        super().__init__(source, table, slot, owns)
        assert isinstance(source, nn.EmbeddingBag)
        self.mode, self.include_last_offset = source.mode, source.include_last_offset

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Return pooled vectors [B, dim]; arguments are those of `nn.EmbeddingBag`."""
        if per_sample_weights is not None and self.mode != "sum":
            raise ValueError(f"per_sample_weights go with mode 'sum', and this embedding has '{self.mode}'")
        if input.dim() == 2:
            if offsets is not None:
                raise ValueError("a 2-D input is one bag per row; give no offsets")
            size, ids = len(input), input.reshape(-1)
            lengths = torch.full((size,), input.shape[1], device=input.device)
        else:
            if offsets is None:
                raise ValueError("a 1-D input needs offsets that say where its bags begin")
            ids, ends = input, offsets[1:]
            if not self.include_last_offset:
                ends = torch.cat([ends, offsets.new_tensor([len(input)])])
            lengths = ends - offsets[: len(ends)]
            size = len(lengths)
        bag = torch.repeat_interleave(torch.arange(size, device=ids.device), lengths)
        weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
        if self.padding_idx is not None:
            kept = ids != self.padding_idx
            ids, bag, weights = ids[kept], bag[kept], None if weights is None else weights[kept]
        vectors = self.look_up(ids)
        if weights is not None:
            vectors = vectors * weights[:, None]
        pooled = vectors.new_zeros(size, vectors.shape[1]).index_add(0, bag, vectors)
        if self.mode == "mean":
            pooled = pooled / torch.bincount(bag, minlength=size).clamp(min=1)[:, None]
        return self.finish(pooled)
