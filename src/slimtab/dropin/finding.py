"""Which embeddings of somebody else's model are replaced, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from slimtab.dropin.report import Report
from slimtab.errors import SlimtabError

Source = nn.Embedding | nn.EmbeddingBag


def find(
    model: nn.Module, min_ids: int, skip: Collection[str], report: Report, untrained: bool = False
) -> dict[str, list[Source]]:
    """Return what is to be replaced by name: modules that share a weight stand together.

    Weights that need no gradient are left alone, unless ``untrained``.

    The report gets the names, and those of what is left with the reason.

    Raises:
        SlimtabError: when a name to skip is unknown, a module does something that a compressed one cannot
            do, or nothing is left to replace.
    """
    names = dict(model.named_modules())
    unknown = sorted(set(skip) - set(names))
    if unknown:
        raise SlimtabError(f"the model has no module '{unknown[0]}' to skip; see model.named_modules()")
    sources: dict[Tensor, list[Source]] = {}
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
        elif not (untrained or weight.requires_grad):
            reason = "its weight is not trained"
        if reason:
            report.left |= dict.fromkeys(called, reason)
            continue
        for name, module in zip(called, modules, strict=True):
            _check(name, module)
            report.now_dense += [name] if module.sparse else []
        report.replaced += called
        found[called[0]] = modules
    if not found:
        raise SlimtabError(
            f"the model holds no embedding of {min_ids} rows or more to replace; lower min_ids"
        )
    return found


def _is_plain(module: nn.Module) -> bool:
    """Whether a module looks ids up as torch does; a subclass with a forward of its own may not."""
    return any(
        isinstance(module, kind) and type(module).forward is kind.forward
        for kind in (nn.Embedding, nn.EmbeddingBag)
    )


def _check(name: str, module: Source) -> None:
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
