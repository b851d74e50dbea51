"""The settings of prep."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from slimtab.errors import SlimtabError, nearest

Kind = Literal["criteo", "avazu", "sports", "table"]
NumericHandling = Literal["log1p", "bucket", "standard"]
IdScheme = Literal["vocab", "hash"]
SplitRule = Literal["chronological", "random"]


@dataclass(frozen=True)
class PrepOptions:
    """What prep does with the raw rows.

    Attributes:
        kind: format of the raw files.
        numeric: ``log1p`` and ``standard`` deliver numeric columns as float32; ``bucket`` makes each a
            categorical feature with tokens ⌊ln(x)²⌋.
        min_count: a token needs this many training rows for an id of its own. None means 2, except for
            sports (1), whose users and items are themselves the subject.
        ids: ``vocab`` numbers the tokens, ``hash`` uses 64-bit hashes of them and needs no vocabulary.
        split: ``chronological`` cuts the rows in file order, ``random`` draws a split for each row.
        train: share of rows for training. Sports ignores the shares: its protocol fixes the split.
        valid: share for validation.
        test: share for testing.
        seed: of the random split, the sports negatives and the token hash.
        max_memory: what prep may use, in bytes or like ``"2GB"``; with ``dask``, what each worker may.
        max_rejects: share of malformed rows at which prep stops.
        columns: column description (YAML), for ``kind="table"``.
        workers: processes that work on whole files; 0 for threads of this one.
        dask: address of a Dask scheduler whose workers do it; they see all files under the same paths.

    Raises:
        SlimtabError: when a value is not allowed.
    """

    kind: Kind
    numeric: NumericHandling = "log1p"
    min_count: int | None = None
    ids: IdScheme = "vocab"
    split: SplitRule = "chronological"
    train: float = 0.8
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    max_memory: str | int = "2GB"
    max_rejects: float = 0.01
    columns: Path | None = None
    workers: int = 0
    dask: str | None = None

    def __post_init__(self) -> None:
        allowed = {"kind": Kind, "numeric": NumericHandling, "ids": IdScheme, "split": SplitRule}
        for name, literal in allowed.items():
            value = getattr(self, name)
            if value not in get_args(literal):
                raise SlimtabError(f"{name} '{value}' is not known{nearest(str(value), get_args(literal))}")
        shares = (self.train, self.valid, self.test)
        if min(shares) < 0 or self.train == 0 or abs(sum(shares) - 1) > 1e-9:
            raise SlimtabError(
                f"split shares {shares} must not be negative and must add up to 1, with training above 0"
            )
        if self.min_count is not None and self.min_count < 1:
            raise SlimtabError(f"min_count {self.min_count} must be at least 1")
        if not 0 <= self.max_rejects <= 1:
            raise SlimtabError(f"max_rejects {self.max_rejects} is a share of the rows, between 0 and 1")
        if self.workers < 0 or (self.workers and self.dask is not None):
            raise SlimtabError(
                f"workers {self.workers} must be a number of processes, and left out where dask has workers"
            )
        if self.kind == "sports" and (self.workers or self.dask is not None):
            raise SlimtabError("sports rows are one small file, for threads; leave --workers and --dask out")
        if (self.kind == "table") != (self.columns is not None):
            raise SlimtabError(
                "a column description (--columns FILE.yaml) belongs to 'table', and only there"
            )
        if self.kind == "sports" and self.split == "random":
            raise SlimtabError(
                "sports rows are split by their protocol (last item of a user = test); leave --split out"
            )

    @property
    def token_count(self) -> int:
        """``min_count`` with its default filled in."""
        if self.min_count is not None:
            return self.min_count
        return 1 if self.kind == "sports" else 2

    def settings(self) -> dict[str, Any]:
        """Return what decides the bytes of the dataset, as JSON values: workers and limits do not."""
        return {
            "kind": self.kind,
            "numeric": self.numeric,
            "min_count": self.token_count,
            "ids": self.ids,
            "split": self.split,
            "shares": [self.train, self.valid, self.test],
            "seed": self.seed,
            "columns": hashlib.sha256(self.columns.read_bytes()).hexdigest() if self.columns else None,
        }
