"""A job: a checkpoint in, a folder out, with a report and, where there are rows, what it cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimtab.data.loader import Loader
from slimtab.data.vocabulary import load_counts
from slimtab.errors import SlimtabError
from slimtab.schema import Schema
from slimtab.shrinking.checkpoint import find_tables, read_checkpoint
from slimtab.shrinking.matching import counts_of, match_features
from slimtab.shrinking.shrink import shrink
from slimtab.shrinking.subjects import CheckpointSubject, RunSubject, Subject, load_builder
from slimtab.training.metrics import evaluate

BATCH = 4096  # rows scored at a time


@dataclass(frozen=True)
class Job:
    """What to shrink, and how.

    Attributes:
        source: a run folder, or a file of weights.
        out: folder to make.
        method: see :func:`~slimtab.shrinking.shrink.shrink`.
        budget: serving bytes.
        data: a prepared dataset, to weigh ids by frequency and to measure quality.
        patterns: which tensors are tables; those that look like it where there is none.
        named: features by table, where names do not agree.
        build: ``FILE.py:NAME``, a function that returns the model of a checkpoint from elsewhere.
        min_ids: smaller tables of such a checkpoint stay.
        trust: run code that the checkpoint holds.
        seed: of samples and starts.
    """

    source: Path
    out: Path
    method: str
    budget: str | None = None
    data: Path | None = None
    patterns: Sequence[str] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    build: str | None = None
    min_ids: int = 1000
    trust: bool = False
    seed: int = 0

    def run(self) -> dict[str, Any]:
        """Do it, and return its figures.

        Raises:
            SlimtabError: when the input is damaged, does not fit together, or the budget cannot be reached.
        """
        started = time.perf_counter()
        subject = self._subject()
        schema = None if self.data is None else Schema.load(self.data / "schema.json")
        counts = self._counts(subject, schema)
        measured = schema is not None and subject.model is not None
        before = self._quality(subject) if measured else None
        shrunk = shrink(
            subject.tables, self.method, self.budget, counts=counts, seed=self.seed, progress=True
        )
        figures: dict[str, Any] = {
            "source": str(self.source),
            "method": self.method,
            "full_bytes": shrunk.full_bytes,
            "serve_bytes": shrunk.serve_bytes,
            "by_frequency": counts is not None,
            "tables": shrunk.figures,
        }
        if subject.model is not None:
            subject.put(shrunk)
        if before is not None:
            figures |= {"before": before, "after": self._quality(subject)}
        figures |= {"seed": self.seed, "seconds": time.perf_counter() - started}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        subject.save(shrunk, self.out, figures)
        return figures

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
