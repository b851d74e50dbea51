"""Raw rows → the arrays a model takes. Prep writes its shards with this, serving scores new rows with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from slimtab.data.rawcolumns import labels_of, raw_column, tokens_of
from slimtab.data.tokens import hash_tokens, salt_of
from slimtab.data.transforms import transform
from slimtab.data.vocabulary import Vocabulary, look_up
from slimtab.schema import Feature, Schema


def shard_schema(schema: Schema, labelled: bool = True) -> pa.Schema:
    """Return the Arrow schema of encoded rows: label int8, numerics float32, ids int32 (int64 hashes)."""
    fields = [pa.field(schema.raw.label, pa.int8())] if labelled else []
    fields += [pa.field(numeric.name, pa.float32()) for numeric in schema.numerics]
    for feature in schema.features:
        kind = pa.int64() if feature.encoding == "hash" else pa.int32()
        fields.append(pa.field(feature.name, pa.list_(kind) if feature.multi_hot else kind))
    return pa.schema(fields)


def place_ids(tokens: pa.DictionaryArray | pa.ListArray, ids: np.ndarray) -> pa.Array:
    """Put ``ids``, one for each token of the dictionary, where the dictionary's tokens stand."""
    if isinstance(tokens, pa.ListArray):
        return pa.ListArray.from_arrays(tokens.offsets, place_ids(tokens.values, ids))
    return pa.array(ids[tokens.indices.to_numpy()])


def hashed(feature: Feature, seed: int, tokens: pa.StringArray) -> np.ndarray:
    """Return the ids [M] int64 of tokens [M] under ``encoding="hash"``."""
    return hash_tokens(tokens, salt_of(feature.name, seed))


def dictionary_of(tokens: pa.DictionaryArray | pa.ListArray) -> pa.StringArray:
    """Return the distinct tokens of a feature's column."""
    return (tokens.values if isinstance(tokens, pa.ListArray) else tokens).dictionary


class Encoder:
    """A dataset's transforms and vocabularies, applied to new rows.

    Example::

        encoder = Encoder.load(Path("data/criteo"))
        for part in read_raw(Path("day_23.gz"), encoder.schema):
            table = encoder.encode(part.table)

    Args:
        schema: columns with their fitted transforms.
        folder: a dataset, or what :meth:`save` wrote: ``schema.json`` and ``vocab/``.
    """

    def __init__(self, schema: Schema, folder: Path) -> None:
        self.schema = schema
        self.folder = folder
        self._vocabularies: dict[str, Vocabulary] = {}
        for feature in schema.features:
            if feature.encoding == "vocab":
                self._vocabularies[feature.name] = Vocabulary.load(
                    folder / "vocab" / f"{feature.name}.parquet"
                )

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Read the encoder of a dataset or of a frozen run.

        Raises:
            SlimtabError: when a file is absent or damaged.
        """
        return cls(Schema.load(folder / "schema.json"), folder)

    def save(self, folder: Path) -> None:
        """Write ``schema.json`` and ``vocab/`` into ``folder``: all that :meth:`load` needs."""
        folder.mkdir(parents=True, exist_ok=True)
        self.schema.save(folder / "schema.json")
        if self._vocabularies:
            (folder / "vocab").mkdir(exist_ok=True)
        for name in self._vocabularies:
            shutil.copyfile(self.folder / "vocab" / f"{name}.parquet", folder / "vocab" / f"{name}.parquet")

    def encode(self, rows: Any) -> pa.Table:
        """Encode raw rows.

        Args:
            rows: raw columns, as a pyarrow or polars table. Numbers may be numbers or missing, tokens text
                or integers. The label may be absent; other columns are ignored.

        Returns:
            The rows in the shard layout (:func:`shard_schema`), one chunk per column.

        Raises:
            SlimtabError: when a column is missing.
        """
        table: pa.Table = rows if isinstance(rows, pa.Table) else pa.table(rows.to_arrow())
        schema, labelled = self.schema, self.schema.raw.label in table.column_names
        columns = [labels_of(table, schema)] if labelled else []
        columns += [
            pa.array(transform(numeric, raw_column(table, numeric.name))) for numeric in schema.numerics
        ]
        tokens = {feature.name: tokens_of(table, schema, feature) for feature in schema.features}
        ids = self._ids({name: dictionary_of(column) for name, column in tokens.items()})
        columns += [place_ids(column, ids[name]) for name, column in tokens.items()]
        return pa.table(columns, schema=shard_schema(schema, labelled))

    def _ids(self, tokens: Mapping[str, pa.StringArray]) -> dict[str, np.ndarray]:
        """Return the ids [M_f] of the tokens [M_f] of every feature."""
        known = self._vocabularies
        ids = dict(zip(known, look_up(list(known.values()), [tokens[name] for name in known]), strict=True))
        for feature in self.schema.features:
            if feature.encoding == "hash":
                ids[feature.name] = hashed(feature, self.schema.hash_seed, tokens[feature.name])
        return ids
