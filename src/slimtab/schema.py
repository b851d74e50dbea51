"""What the columns of a dataset are: written by prep, read by everyone after it, one JSON file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from slimtab.errors import SlimtabError
from slimtab.files import written

FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Numeric:
    """A numeric column, delivered to the model as one float32.

    Attributes:
        name: column name.
        transform: ``log1p`` is ln(1 + max(x, 0)); ``standard`` is (x − mean) / std.
        mean: mean of the training rows' present values (``standard`` only).
        std: their standard deviation, 1 where it would be 0 (``standard`` only).

    A missing value becomes 0.0 after the transform.
    """

    name: str
    transform: Literal["log1p", "standard"] = "log1p"
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Feature:
    """A categorical column, delivered as ids that index an embedding table.

    Attributes:
        name: column name.
        num_ids: rows a full table needs: ids are 0 … num_ids − 1, and id 0 stands for everything out of
            vocabulary. Under ``encoding="hash"`` the ids are 64-bit hashes instead, and this is an
            estimate of how many distinct ones the training rows hold (plus one).
        encoding: ``vocab`` looks tokens up in ``vocab/<name>.parquet``; ``hash`` hashes them.
        bucketise: the column holds numbers, turned into the token ⌊ln(x)²⌋ (or int(x) up to 2) first.
        multi_hot: a row holds any number of ids instead of exactly one.
        pooling: how a model combines the vectors of a multi-hot row.
    """

    name: str
    num_ids: int
    encoding: Literal["vocab", "hash"] = "vocab"
    bucketise: bool = False
    multi_hot: bool = False
    pooling: Literal["sum", "mean"] = "sum"


@dataclass(frozen=True)
class RawFormat:
    """How to read raw rows of this dataset again, for scoring new ones.

    Attributes:
        kind: which reader: ``criteo``, ``avazu``, ``sports`` or ``table``.
        label: name of the label column.
        separator: field separator of text files.
        list_separator: what stands between the tokens of a multi-hot cell in text files.
    """

    kind: str
    label: str = "label"
    separator: str = ","
    list_separator: str = " "


@dataclass(frozen=True)
class Schema:
    """A dataset's columns with everything fitted on its training rows.

    Attributes:
        raw: how raw rows are read.
        numerics: numeric columns, in the order of ``Batch.dense``.
        features: categorical columns, in the order of their embeddings.
        rows: number of rows in each split.
        sources: names of the raw files.
        settings: the prep settings that made it, for the record.
        hash_seed: seed of the token hash (``encoding="hash"``).
        format_version: of the dataset folder.
    """

    raw: RawFormat
    numerics: tuple[Numeric, ...] = ()
    features: tuple[Feature, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    hash_seed: int = 0
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        names = [column.name for column in self.numerics] + [column.name for column in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SlimtabError(f"column '{twice[0]}' appears twice in the schema; give each column one role")

    @property
    def one_hot(self) -> tuple[Feature, ...]:
        """Features with exactly one id per row, in order."""
        return tuple(feature for feature in self.features if not feature.multi_hot)

    @property
    def multi_hot(self) -> tuple[Feature, ...]:
        """Features with any number of ids per row, in order."""
        return tuple(feature for feature in self.features if feature.multi_hot)

    def full_bytes(self, dim: int) -> int:
        """Bytes of the uncompressed float32 tables at width ``dim``: 4 · n · dim."""
        return 4 * dim * sum(feature.num_ids for feature in self.features)

    def fingerprint(self) -> str:
        """Hash of what a trained model depends on: columns, transforms, ids. Not of paths or row counts."""
        relevant = {key: value for key, value in self.to_dict().items() if key in _FINGERPRINTED}
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def save(self, path: Path) -> None:
        """Write ``schema.json`` at ``path``, whole or not at all."""
        with written(path) as beside:
            beside.write_text(json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Schema:
        """Build a schema from :meth:`to_dict`'s values.

        Raises:
            SlimtabError: when the values are not those of this format version.
        """
        version = plain.get("format_version") if isinstance(plain, dict) else None
        if version != FORMAT_VERSION:
            raise SlimtabError(
                f"dataset format version {version} is not {FORMAT_VERSION}, which this slimtab reads; "
                "prepare it again"
            )
        try:
            return cls(
                raw=RawFormat(**plain["raw"]),
                numerics=tuple(Numeric(**column) for column in plain["numerics"]),
                features=tuple(Feature(**column) for column in plain["features"]),
                rows=dict(plain["rows"]),
                sources=tuple(plain["sources"]),
                settings=dict(plain["settings"]),
                hash_seed=int(plain["hash_seed"]),
            )
        except (KeyError, TypeError) as error:
            raise SlimtabError(f"the schema is damaged ({error}); prepare the dataset again") from error

    @classmethod
    def load(cls, path: Path) -> Schema:
        """Read ``schema.json``.

        Raises:
            SlimtabError: when the file is absent, unreadable or of another format version.
        """
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SlimtabError(
                f"no dataset at {path.parent}: {path.name} is missing; make one with `slimtab prep`"
            ) from error
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SlimtabError(f"{path} cannot be read ({error}); prepare the dataset again") from error
        return cls.from_dict(plain)


_FINGERPRINTED = ("raw", "numerics", "features", "hash_seed", "format_version")
