"""Shrunk tables inside a model: its embeddings are replaced by modules that are called alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from slimtab.dropin.finding import Source, find
from slimtab.dropin.modules import Bags, Vectors
from slimtab.dropin.replace import put_instead
from slimtab.dropin.report import Report
from slimtab.errors import SlimtabError, nearest
from slimtab.shrinking.artefact import DENSE, load_shrunk
from slimtab.shrinking.shrunk import Shrunk
from slimtab.training.checkpoint import read_tensors


def embeddings_of(model: nn.Module, min_ids: int) -> dict[str, list[Source]]:
    """Return the embeddings of a model by name; modules that share a weight stand together.

    Raises:
        SlimtabError: when there is none of ``min_ids`` rows, or one does what a frozen one cannot.
    """
    return find(model, min_ids, (), Report(), untrained=True)


def places_of(shrunk: Shrunk, model: nn.Module) -> dict[str, list[Source]]:
    """Return the embeddings of a model that shrunk tables stand for, by table.

    Raises:
        SlimtabError: when a table has no place in the model.
    """
    names = {module: name for name, module in model.named_modules()}
    found = {}
    for same in embeddings_of(model, 1).values():
        known = [names[module] for module in same if names[module] in shrunk.names]
        if known:
            found[known[0]] = same
    extra = [name for name in shrunk.names if name not in found]
    if extra:
        known = [names[module] for module in names if isinstance(module, Source)]
        raise SlimtabError(f"table '{extra[0]}' is no embedding of the model{nearest(extra[0], known)}")
    return found


def replace(model: nn.Module, modules: Mapping[str, list[Source]], shrunk: Shrunk) -> list[str]:
    """Put frozen tables where ``modules`` stand in ``model``, and return the names of those replaced.

    Raises:
        SlimtabError: when a table of that name is missing, or has another shape.
    """
    instead: dict[Source, nn.Module] = {}
    owned = set()
    for name, same in modules.items():
        group, slot = shrunk.find(name)
        rows, shape = group.features[slot].num_ids, list(same[0].weight.shape)
        if shape != [rows, group.dim]:
            raise SlimtabError(
                f"embedding '{name}' is {shape} in the model and {[rows, group.dim]} among the shrunk "
                "tables; build the model that was shrunk"
            )
        for module in same:
            drop_in = Bags if isinstance(module, nn.EmbeddingBag) else Vectors
            instead[module] = drop_in(module, group.table, name, slot, id(group) not in owned)
            owned.add(id(group))
    names = [
        name for name, module in model.named_modules() if isinstance(module, Source) and module in instead
    ]
    put_instead(model, instead)
    return names


def restore(model: nn.Module, folder: str | Path) -> nn.Module:
    """Fill a freshly built model with what ``slimtab shrink`` wrote: frozen tables, and all other weights.

    Args:
        model: of the class that was shrunk; its embeddings are replaced in place.
        folder: that ``slimtab shrink`` or ``Shrunk.save`` wrote.

    Returns:
        The model, in eval mode.

    Raises:
        SlimtabError: when the folder is damaged, or its tables and weights are not those of the model.
    """
    folder = Path(folder)
    shrunk, (dense, _) = load_shrunk(folder), read_tensors(folder / DENSE)
    own = tuple(f"{name}." for name in replace(model, places_of(shrunk, model), shrunk))
    try:
        missing, unexpected = model.load_state_dict(dense, strict=False)
    except RuntimeError as error:
        raise SlimtabError(f"{folder} does not fit this model ({' '.join(str(error).split())})") from error
    missing = [name for name in missing if not name.startswith(own)]
    if missing or unexpected:
        wrong = f"lacks '{missing[0]}'" if missing else f"holds '{unexpected[0]}', which the model lacks"
        raise SlimtabError(f"{folder} {wrong}; build the model that was shrunk")
    return model.eval()
