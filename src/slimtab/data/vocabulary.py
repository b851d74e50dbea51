"""A vocabulary in memory: token → id, for whole columns at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slimtab.data.tokens import hash_tokens
from slimtab.errors import SlimtabError
from slimtab.schema import Schema

PARQUET_SCHEMA = pa.schema([("token", pa.string()), ("id", pa.int32()), ("count", pa.int64())])


class Vocabulary:
    """The tokens of one feature, found by binary search over their sorted hashes.

    Beside the tokens it holds 12 bytes for each; a lookup compares the token itself, so an unknown token
    never passes for a known one.

    Args:
        tokens: the tokens [N] of ids 1 … N, in the order of their ids.

    Attributes:
        tokens: see above, in one piece.
        salt: of the hashes; no two tokens share one.
    """

    def __init__(self, tokens: pa.ChunkedArray | pa.Array) -> None:
        chunks = tokens.chunks if isinstance(tokens, pa.ChunkedArray) else [tokens]
        # Offsets of 64 bits: the tokens together may exceed 2 GiB.
        self.tokens = pa.chunked_array(chunks, pa.string()).cast(pa.large_string()).combine_chunks()
        self.salt = 0
        while True:
            hashes = np.concatenate(
                [hash_tokens(chunk, self.salt) for chunk in chunks] or [np.empty(0, np.int64)]
            )
            order = np.argsort(hashes, kind="stable")
            self._hashes = hashes[order]
            if not (self._hashes[1:] == self._hashes[:-1]).any():
                break
            # Two tokens share a hash, once in a million vocabularies: another salt parts them.
            self.salt += 1
        self._ids = order.astype(np.int32) + np.int32(1)

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read ``vocab/<column>.parquet``.

        Raises:
            SlimtabError: when the file is absent or damaged.
        """
        try:
            table = pq.read_table(path, columns=["token"])
        except (OSError, pa.ArrowException) as error:
            raise SlimtabError(
                f"vocabulary {path} cannot be read ({error}); prepare the dataset again"
            ) from error
        return cls(table["token"].slice(1))

    def __len__(self) -> int:
        """Number of tokens, without the out-of-vocabulary row."""
        return len(self.tokens)

    def candidates(self, hashes: np.ndarray) -> np.ndarray:
        """Return the ids [M] int32 of the tokens that have these hashes [M], 0 where none has."""
        if len(self) == 0:
            return np.zeros(len(hashes), dtype=np.int32)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self) - 1)
        return np.where(self._hashes[places] == hashes, self._ids[places], np.int32(0))


def look_up(vocabularies: Sequence[Vocabulary], tokens: Sequence[pa.StringArray]) -> list[np.ndarray]:
    """Return the ids [M_f] int32 of every feature's tokens [M_f], 0 for those out of vocabulary.

    All features together: for the few rows of a request, it is the number of calls that costs.
    """
    if not vocabularies:
        return []
    lengths = [len(part) for part in tokens]
    together = pa.concat_arrays(tokens)
    hashes = hash_tokens(together, np.repeat([vocabulary.salt for vocabulary in vocabularies], lengths))
    bounds = np.cumsum(lengths)[:-1]
    found = [
        vocabulary.candidates(part)
        for vocabulary, part in zip(vocabularies, np.split(hashes, bounds), strict=True)
    ]
    ids = np.concatenate(found)
    # A hash is no proof: only the token that is stored under the id is.
    stored = pa.concat_arrays(
        vocabulary.tokens.take(pa.array(part - 1, mask=part == 0))
        for vocabulary, part in zip(vocabularies, found, strict=True)
    )
    same = pc.equal(stored, together.cast(stored.type)).fill_null(False)
    ids[~same.to_numpy(zero_copy_only=False)] = 0
    return np.split(ids, bounds)


def load_counts(folder: Path, schema: Schema) -> dict[str, np.ndarray]:
    """Return how often the training rows hold each id [num_ids] int64, by feature with a vocabulary.

    Args:
        folder: a prepared dataset.
        schema: its columns.

    Raises:
        SlimtabError: when a vocabulary is absent or damaged.
    """
    counts = {}
    for feature in schema.features:
        path = folder / "vocab" / f"{feature.name}.parquet"
        if feature.encoding != "vocab":
            continue
        try:
            counts[feature.name] = pq.read_table(path, columns=["count"])["count"].to_numpy()
        except (OSError, pa.ArrowException) as error:
            raise SlimtabError(
                f"vocabulary {path} cannot be read ({error}); prepare the dataset again"
            ) from error
    return counts
