"""What is shrunk: a run of slimtab's, or a checkpoint from elsewhere, perhaps with its model."""

from __future__ import annotations

import abc
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimtab.batch import Batch
from slimtab.collection import TableCollection
from slimtab.data.vocabulary import load_counts
from slimtab.errors import SlimtabError
from slimtab.files import written_folder
from slimtab.models.base import CTRModel
from slimtab.serving.freeze import load_frozen, write_frozen
from slimtab.serving.lookup import lookup_speed
from slimtab.shrinking.artefact import save_shrunk
from slimtab.shrinking.checkpoint import without_tables
from slimtab.shrinking.modules import places_of, replace
from slimtab.shrinking.shrunk import Shrunk
from slimtab.tables.parts.addressed import FrozenRows


class Subject(abc.ABC):
    """Something with tables.

    Attributes:
        tables: vectors [ids, dim] by name.
        model: takes a :class:`~slimtab.batch.Batch` and returns logits [B]; None where it is not known.
    """

    tables: dict[str, Tensor]
    model: nn.Module | None

    @abc.abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return the tables inside the model, by name: what is written to them changes its answers."""

    @abc.abstractmethod
    def put(self, shrunk: Shrunk) -> None:
        """Give the model the shrunk tables."""

    @abc.abstractmethod
    def save(self, shrunk: Shrunk, out: Path, figures: Mapping[str, Any]) -> None:
        """Write the folder that serves; an earlier one is replaced only when the new one is whole."""


class RunSubject(Subject):
    """A finished run with full tables."""

    model: CTRModel

    def __init__(self, folder: Path) -> None:
        """Read the run.

        Raises:
            SlimtabError: when it is unfinished or damaged, or its tables are compressed already.
        """
        self.model, self.encoder = load_frozen(folder / "frozen")
        self._trained = folder / "metrics.json"
        self.card = json.loads((folder / "frozen" / "model.json").read_text(encoding="utf-8"))
        if self.card["method"] != "full":
            raise SlimtabError(
                f"{folder} has tables of method {self.card['method']}, which are small already; "
                "shrink a run of method full"
            )
        table, features = self.model.tables.table, self.model.tables.features
        assert isinstance(table, FrozenRows)
        parts = torch.split(table.weight, [feature.num_ids for feature in features])
        self.tables = {feature.name: part for feature, part in zip(features, parts, strict=True)}

    def weights(self) -> dict[str, Tensor]:
        """See the class."""
        return self.tables

    def counts(self) -> Mapping[str, Any]:
        """Return how often the training rows hold each id [num_ids], by feature: the vocabulary knows."""
        return load_counts(self.encoder.folder, self.encoder.schema)

    def put(self, shrunk: Shrunk) -> None:
        """See the class."""
        (group,), tables = shrunk.groups, self.model.tables
        self.model.tables = TableCollection(group.table, tables.features, tables.dim, tables.check_ids)

    def save(self, shrunk: Shrunk, out: Path, figures: Mapping[str, Any]) -> None:
        """Write a run folder with ``frozen/`` and ``shrink.json``; and ``metrics.json``, once measured."""
        (group,) = shrunk.groups
        card = self.card | {"shrunk_by": shrunk.method, "serve_bytes": shrunk.serve_bytes}
        with written_folder(out) as beside:
            write_frozen(
                self.model,
                self.model.tables,
                group.method,
                group.config,
                self.encoder,
                beside / "frozen",
                card,
            )
            (beside / "shrink.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            if "after" in figures and self._trained.exists():
                metrics = self._metrics(figures, out) | {"lookup": lookup_speed(self.model.tables)}
                (beside / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")

    def _metrics(self, figures: Mapping[str, Any], out: Path) -> dict[str, Any]:
        """Return what a run's ``metrics.json`` holds, so that the two can be compared."""
        trained = json.loads(self._trained.read_text(encoding="utf-8"))
        kept = ("model", "dim", "seed", "full_bytes", "vocab_bytes", "rows_per_second", "data", "versions")
        settings = trained["settings"]
        table = settings["table"] | {"method": figures["method"], "budget": figures["budget"]}
        shrink = {"finetune": figures["finetune"], "mixed": "mixed" in figures}
        return {name: trained[name] for name in kept} | {
            "run": str(out),
            "method": f"{figures['method']} (shrunk)",
            "serve_bytes": figures["serve_bytes"],
            **figures["after"],
            "settings": settings | {"table": table, "shrink": shrink},
        }


class CheckpointSubject(Subject):
    """Tensors by name, of which some are tables; and the model they were trained in, where it is given."""

    def __init__(
        self, tensors: Mapping[str, Tensor], tables: dict[str, Tensor], build: Callable[[], nn.Module] | None
    ) -> None:
        """Load the tensors into a freshly built model, where there is one.

        Raises:
            SlimtabError: when they do not fit it.
        """
        self.tables, self.tensors = tables, tensors
        self.model = None
        if build is not None:
            inner = build()
            try:
                inner.load_state_dict(dict(tensors))
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise SlimtabError(f"the checkpoint does not fit the model built: {reason}") from error
            self.model = Foreign(inner).eval()

    def weights(self) -> dict[str, Tensor]:
        """See the class."""
        assert isinstance(self.model, Foreign)
        state = dict(self.model.inner.named_parameters())
        missing = [name for name in self.tables if f"{name}.weight" not in state]
        if missing:
            raise SlimtabError(f"table '{missing[0]}' is no embedding of the model that --model builds")
        return {name: state[f"{name}.weight"].detach() for name in self.tables}

    def put(self, shrunk: Shrunk) -> None:
        """See the class."""
        assert isinstance(self.model, Foreign)
        shrunk.replaced = replace(self.model.inner, places_of(shrunk, self.model.inner), shrunk)

    def save(self, shrunk: Shrunk, out: Path, figures: Mapping[str, Any]) -> None:
        """Write a folder as :mod:`slimtab.shrinking.artefact` describes it."""
        dense = without_tables(self.tensors, self.tables)
        if self.model is not None:
            assert isinstance(self.model, Foreign)
            state = self.model.inner.state_dict()  # perhaps fine-tuned
            dense = {name: state.get(name, tensor) for name, tensor in dense.items()}
        save_shrunk(shrunk, out, dense, figures)


class Foreign(nn.Module):
    """A user's own model, called with a batch.

    Models with torchrec's collections take (dense [B, I], KeyedJaggedTensor), all others (dense, ids [B, F]).
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.keyed = any(type(module).__module__.startswith("torchrec.") for module in inner.modules())

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B]."""
        logits: Tensor = self.inner(batch.dense, batch.kjt() if self.keyed else batch.ids)
        if logits.numel() != batch.size:
            raise SlimtabError(
                f"the model returns {list(logits.shape)} for {batch.size} rows; --model needs one that "
                "returns a logit for each"
            )
        return logits.reshape(-1)


def load_builder(text: str) -> Callable[[], nn.Module]:
    """Return the function that ``FILE.py:NAME`` says; the file is run, as an import runs it.

    Raises:
        SlimtabError: when the file or the function is missing.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not file.endswith(".py") or not path.is_file():
        raise SlimtabError(f"--model {text}: give a Python file and a function in it, as in model.py:build")
    spec = importlib.util.spec_from_file_location(f"slimtab_model_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickles look for it
    spec.loader.exec_module(module)
    build = getattr(module, name, None)
    if not callable(build):
        raise SlimtabError(f"--model {text}: {file} has no function {name}")
    return build  # type: ignore[no-any-return]
