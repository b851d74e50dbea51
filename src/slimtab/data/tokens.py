"""Tokens: what a categorical cell says, as Arrow strings, and their 64-bit hash."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Odd 64-bit constants of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
# OOPSLA 2014); every step below is a bijection of the state, so tokens of up to 8 bytes and equal length
# never collide before the last bit is cut off.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_U64 = np.uint64


def as_tokens(column: Any) -> pa.StringArray:
    """Turn a column into tokens: text as it is, numbers in decimal, a missing cell as ``""``."""
    array = _contiguous(column)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if array.type != pa.string():
        array = array.cast(pa.string())
    return pc.fill_null(array, "") if array.null_count else array


def as_token_lists(column: Any, separator: str) -> pa.ListArray:
    """Turn a column into lists of tokens; text cells are split at ``separator``, empty tokens dropped."""
    array = _contiguous(column)
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        array = pc.split_pattern(as_tokens(array), separator)
    array = array.cast(pa.list_(pa.string()))
    values, present = as_tokens(array.flatten()), None
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    present = pc.not_equal(values, "").to_numpy(zero_copy_only=False)
    if not present.all():
        offsets = np.concatenate([[0], np.cumsum(present)]).astype(np.int32)[offsets]
        values = values.filter(pa.array(present))
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def salt_of(column: str, seed: int) -> int:
    """Return the 64-bit salt of a column: equal tokens of two columns get unrelated hashes."""
    digest = hashlib.blake2b(f"{seed}\0{column}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def hash_tokens(tokens: pa.StringArray, salt: int | np.ndarray) -> np.ndarray:
    """Hash tokens [N] to int64 [N], 1 ≤ hash < 2⁶³ (0 is kept for out of vocabulary).

    Args:
        tokens: any text.
        salt: of all of them, or of each [N].

    The hash depends on the UTF-8 bytes and the salt alone, on every platform and version. It runs over
    the tokens' 8-byte words, all tokens at a time, so its cost is that of the longest token.
    """
    count = len(tokens)
    _, offsets_buffer, data_buffer = tokens.buffers()
    state = np.empty(count, dtype=np.uint64)
    state[:] = salt
    if count == 0:
        return state.view(np.int64)
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[tokens.offset : tokens.offset + count + 1].astype(
        np.int64
    )
    starts, lengths = offsets[:-1], np.diff(offsets)
    base, used = int(offsets[0]), int(offsets[-1] - offsets[0])
    # Eight bytes of padding let the last word of the last token be read whole.
    padded = np.zeros(used + 8, dtype=np.uint8)
    if used:
        padded[:used] = np.frombuffer(data_buffer, dtype=np.uint8)[base : base + used]
    # words[i] is the little-endian word that starts at byte i.
    words = np.ndarray(used + 1, dtype="<u8", buffer=padded, strides=(1,))
    longest = int(lengths.max())
    for start in range(0, longest, 8):
        active: Any = slice(None) if int(lengths.min()) > start else np.flatnonzero(lengths > start)
        left = lengths[active] - start
        word = words[starts[active] - base + start].astype(np.uint64)
        if int(left.min()) < 8:
            word &= _low_bytes(np.minimum(left, 8))
        mixed = (state[active] ^ word) * _GOLDEN
        state[active] = mixed ^ (mixed >> _U64(32))
    state ^= lengths.astype(np.uint64) * _GOLDEN
    state = (state ^ (state >> _U64(30))) * _MIX_1
    state = (state ^ (state >> _U64(27))) * _MIX_2
    state ^= state >> _U64(31)
    hashes = (state & _U64(2**63 - 1)).view(np.int64)
    np.maximum(hashes, 1, out=hashes)
    return hashes


def _low_bytes(count: np.ndarray) -> np.ndarray:
    """Return masks of the ``count`` (1 … 8) low bytes, uint64."""
    masks: np.ndarray = _U64(2**64 - 1) >> (_U64(64) - _U64(8) * count.astype(np.uint64))
    return masks


def _contiguous(column: Any) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column
