"""What every model shares: tables, a dense network over them, and a name to ask for it by."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from slimtab.batch import Batch
from slimtab.collection import TableCollection
from slimtab.errors import SlimtabError, nearest
from slimtab.registry import import_modules

_MODELS: dict[str, type[CTRModel]] = {}


@dataclass(frozen=True)
class ModelConfig:
    """Settings of a model; each model has a subclass of its own."""


class CTRModel(nn.Module, abc.ABC):
    """A click model: dense columns and embeddings in, one logit per row out.

    Built on plain torch modules rather than torchrec's, because a frozen model serves where torchrec is
    not installed.

    Attributes:
        name: registered name.
        Config: the model's settings.
        tables: the embeddings; the only part whose size depends on the number of ids.
    """

    name: ClassVar[str]
    Config: ClassVar[type[ModelConfig]]

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.name = name
            _MODELS[name] = cls

    def __init__(self, tables: TableCollection, num_dense: int, config: ModelConfig) -> None:
        """Build the network for ``num_dense`` numeric columns and the features of ``tables``."""
        super().__init__()
        self.tables, self.num_dense, self.config = tables, num_dense, config

    @abc.abstractmethod
    def interact(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Return logits [B] from ``dense`` [B, I] and embeddings ``vectors`` [B, F, dim]."""

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        return self.interact(batch.dense, self.tables.embed(batch))


def mlp(widths: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Return linear layers ``widths[0] → widths[1] → …``, each followed by ReLU and dropout."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def build_model(name: str, tables: TableCollection, num_dense: int, options: Mapping[str, Any]) -> CTRModel:
    """Return the model called ``name`` with ``options`` for its config.

    Raises:
        SlimtabError: when no model has that name, or it has no such option, or the option's value is wrong.
    """
    import_modules("slimtab.models")
    if name not in _MODELS:
        raise SlimtabError(f"no model '{name}'{nearest(name, _MODELS)}")
    model = _MODELS[name]
    known = {field.name: field.default for field in dataclasses.fields(model.Config)}
    for option, value in options.items():
        if option not in known:
            raise SlimtabError(f"model {name} has no option '{option}'{nearest(option, known)}")
        if not _fits(value, known[option]):
            raise SlimtabError(
                f"model {name}: option '{option}' is {value!r}; give one like {known[option]!r}"
            )
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return model(tables, num_dense, model.Config(**settings))


def _fits(value: Any, default: Any) -> bool:
    """Tell whether ``value`` is of the kind of ``default``: layer widths, a share, a count, perhaps None."""
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(type(width) is int and width > 0 for width in value)
    if isinstance(default, float):
        return type(value) in (int, float) and 0 <= value < 1
    if default is None:
        return value is None or (type(value) is int and value > 0)
    return type(value) is int and value >= 0
