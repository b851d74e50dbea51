"""A job: a checkpoint in, a folder out, with a report and, where there are rows, what it cost."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from slimtab.data.loader import Loader
from slimtab.data.vocabulary import load_counts
from slimtab.errors import SlimtabError
from slimtab.schema import Schema
from slimtab.shrinking.answers import Answers
from slimtab.shrinking.checkpoint import find_tables, read_checkpoint
from slimtab.shrinking.finetune import finetune
from slimtab.shrinking.matching import counts_of, match_features
from slimtab.shrinking.mixed import mix
from slimtab.shrinking.shrink import compare, gather, group_of, shrink
from slimtab.shrinking.shrunk import Shrunk
from slimtab.shrinking.subjects import CheckpointSubject, RunSubject, Subject, load_builder
from slimtab.shrinking.vectors import Vectors
from slimtab.sizes import Budget
from slimtab.training.metrics import evaluate

BATCH = 4096  # rows scored at a time
_TRAINED = 1024  # rows of a step of fine-tuning
_MEASURED = 1024  # rows of a batch that mixtures are measured on …
_FEWEST = 100  # validation rows to measure mixtures on
_BATCHES = 32  # … and how many of these are enough


@dataclass(frozen=True)
class Job:
    """What to shrink, and how.

    Attributes:
        source: a run folder, or a file of weights.
        out: folder to make.
        method: see :func:`~slimtab.shrinking.shrink.shrink`; None with ``mixed``.
        budget: serving bytes.
        data: a prepared dataset, to weigh ids by frequency and to measure quality.
        patterns: which tensors are tables; those that look like it where there is none.
        named: features by table, where names do not agree.
        build: ``FILE.py:NAME``, a function that returns the model of a checkpoint from elsewhere.
        min_ids: smaller tables of such a checkpoint stay.
        trust: run code that the checkpoint holds.
        finetune: minutes of fine-tuning afterwards.
        mixed: choose bits for each feature, in place of a method.
        seed: of samples, starts and shuffles.
    """

    source: Path
    out: Path
    method: str | None = None
    budget: str | None = None
    data: Path | None = None
    patterns: Sequence[str] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    build: str | None = None
    min_ids: int = 1000
    trust: bool = False
    finetune: float = 0.0
    mixed: bool = False
    seed: int = 0

    def run(self) -> dict[str, Any]:
        """Do it, and return its figures.

        Raises:
            SlimtabError: when the input is damaged, does not fit together, or the budget cannot be reached.
        """
        started = time.perf_counter()
        self._check()
        subject = self._subject()
        schema = None if self.data is None else Schema.load(self.data / "schema.json")
        counts = self._counts(subject, schema)
        measured = self.data is not None and subject.model is not None
        if (self.mixed or self.finetune) and not measured:
            raise SlimtabError("--mixed and --finetune ask the model on rows: give --data, and --model")
        before = self._quality(subject) if measured else None
        groups = gather(subject.tables, counts)
        figures: dict[str, Any] = {
            "source": str(self.source),
            "budget": self.budget,
            "finetune": self.finetune,
            "by_frequency": counts is not None,
        }
        if self.mixed:
            shrunk, figures["mixed"] = self._mix(subject, groups)
        else:
            assert self.method is not None
            shrunk = shrink(
                subject.tables, self.method, self.budget, counts=counts, seed=self.seed, progress=True
            )
        teacher = copy.deepcopy(subject.model) if self.finetune else None
        if subject.model is not None:
            subject.put(shrunk)
        if teacher is not None:
            figures |= {"shrunk": self._quality(subject), "finetuned": self._tune(subject, teacher)}
            shrunk.figures = compare(shrunk, groups, progress=True)
        figures |= {
            "method": shrunk.method,
            "full_bytes": shrunk.full_bytes,
            "serve_bytes": shrunk.serve_bytes,
            "tables": shrunk.figures,
        }
        if before is not None:
            figures |= {"before": before, "after": self._quality(subject)}
        figures |= {"seed": self.seed, "seconds": time.perf_counter() - started}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        subject.save(shrunk, self.out, figures)
        return figures

    def _check(self) -> None:
        if self.mixed == (self.method is not None):
            raise SlimtabError("give either --method or --mixed")
        if self.mixed and self.budget is None:
            raise SlimtabError("--mixed spends a budget; add --budget 8%")
        if self.finetune < 0:
            raise SlimtabError(f"--finetune {self.finetune}: give minutes, 0 for none")

    def _mix(self, subject: Subject, groups: Sequence[Vectors]) -> tuple[Shrunk, dict[str, Any]]:
        if len(groups) > 1:
            widths = ", ".join(str(group.dim) for group in groups)
            raise SlimtabError(f"--mixed takes tables of one width, not {widths}; name some with --tables")
        assert self.data is not None
        assert self.budget is not None
        assert subject.model is not None
        (vectors,) = groups
        count = Loader(self.data, "valid", 1, shuffle=False).rows
        if count < _FEWEST:
            raise SlimtabError(f"--mixed measures on validation rows, and {count} are too few")
        rows = list(Loader(self.data, "valid", min(_MEASURED, count // 2), shuffle=False))
        every = max(1, len(rows) // _BATCHES)
        answers, proof = Answers(subject.model, rows[::2][::every]), Answers(subject.model, rows[1::2])
        nbytes = Budget.parse(self.budget).resolve(vectors.full_bytes)
        with tqdm(
            total=len(vectors.features), desc="measuring", unit="feature", disable=not sys.stderr.isatty()
        ) as bar:
            found = mix(vectors, subject.weights(), answers, proof, nbytes, self.seed, bar.update)
        shrunk = Shrunk("mixed" if found.taken else found.uniform, [group_of(found.made, vectors)])
        shrunk.figures = compare(shrunk, groups, progress=True)
        return shrunk, {
            "taken": found.taken,
            "ways": found.ways,
            "uniform": found.uniform,
            "gain": found.gain[0],
            "gain_error": found.gain[1],
        }

    def _tune(self, subject: Subject, teacher: nn.Module) -> dict[str, Any]:
        assert self.data is not None
        assert subject.model is not None
        data = self.data
        with tqdm(
            total=60 * self.finetune, desc="fine-tuning", unit="s", disable=not sys.stderr.isatty()
        ) as bar:
            return finetune(
                subject.model,
                teacher,
                Loader(data, "train", _TRAINED, shuffle=True, seed=self.seed),
                lambda: Loader(data, "valid", BATCH, shuffle=False),
                self.finetune,
                self.seed,
                bar.update,
            ).to_dict()

    def _subject(self) -> Subject:
        if self.source.is_dir():
            if self.build or self.patterns:
                raise SlimtabError(
                    f"{self.source} is a run, which knows its own model and tables; leave those out"
                )
            return RunSubject(self.source)
        tensors = read_checkpoint(self.source, self.trust)
        tables = find_tables(tensors, self.min_ids, self.patterns)
        return CheckpointSubject(tensors, tables, load_builder(self.build) if self.build else None)

    def _counts(self, subject: Subject, schema: Schema | None) -> Mapping[str, Any] | None:
        if isinstance(subject, RunSubject):
            if schema is not None and schema.fingerprint() != subject.encoder.schema.fingerprint():
                raise SlimtabError(
                    f"{self.data} has other columns or ids than the data that {self.source} was trained on"
                )
            return subject.counts()
        if schema is None:
            return None
        assert self.data is not None
        return counts_of(match_features(subject.tables, schema, self.named), load_counts(self.data, schema))

    def _quality(self, subject: Subject) -> dict[str, Any]:
        assert self.data is not None
        assert subject.model is not None
        splits = {split: Loader(self.data, split, BATCH, shuffle=False) for split in ("valid", "test")}
        return {split: evaluate(subject.model, rows).to_dict() for split, rows in splits.items()}
