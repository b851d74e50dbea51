"""Write a raw file in Criteo's format whose labels follow a known rule.

Rows look like the Display Advertising Challenge: 13 integer counts, 26 columns of 8-digit hex tokens, cells
missing about as often as there, ids drawn from a Zipf law over Kaggle's vocabularies. A click's log-odds is
the sum of an effect per id, of products of hidden factors of two ids, and of smooth effects of the counts.
An id's effects are a hash of its token, so every seed draws other rows of the same world: a model trained on
one file can be scored on another.
"""

from __future__ import annotations

import functools
import gzip
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
from tqdm import tqdm

from slimtab.data.kaggle import CRITEO_KAGGLE
from slimtab.errors import SlimtabError
from slimtab.files import written

CLICK_RATE = 0.256
# Columns of C1 … C26 (from 0) with the share of rows where the Kaggle file has no token.
_TOKEN_MISSING = {2: 0.035, 3: 0.035, 5: 0.12, 11: 0.035, 15: 0.035, 18: 0.44, 19: 0.44, 20: 0.035}
_TOKEN_MISSING |= {21: 0.76, 23: 0.035, 24: 0.44, 25: 0.44}
# I1 … I13: mean and spread of ln(1 + x), share missing; read off the real rows' quantiles.
_COUNTS = (
    *((1.0, 1.0, 0.45), (1.6, 1.6, 0.0), (2.1, 1.3, 0.21), (1.7, 0.9, 0.21), (7.6, 2.5, 0.026)),
    *((3.5, 1.6, 0.22), (1.7, 1.4, 0.043), (2.1, 1.0, 0.001), (3.6, 1.4, 0.043), (0.6, 0.4, 0.45)),
    *((1.0, 0.7, 0.043), (0.3, 0.8, 0.76), (1.8, 0.9, 0.21)),
)
# Spread of each part of the log-odds at signal 1; together they give a best possible AUC of about 0.8.
_ID_SPREAD, _PAIR_SPREAD, _COUNT_SPREAD = 1.2, 0.5, 0.7
_PAIRS = ((2, 9), (11, 6), (20, 25), (15, 23), (3, 0))
_SMALLEST_SCALED = 100
_CHUNK = 1 << 16

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Synthetic:
    """What :func:`write_criteo` wrote.

    Attributes:
        rows: lines in the file.
        malformed: line numbers, from 1, of the lines that were damaged on purpose.
        bayes_auc: AUC of the probabilities that drew the labels: no model can expect more.
    """

    rows: int
    malformed: tuple[int, ...]
    bayes_auc: float


def write_criteo(
    path: Path,
    rows: int,
    *,
    seed: int = 0,
    ids: int | None = None,
    signal: float = 1.0,
    malformed: float = 0.0,
) -> Synthetic:
    """Write ``rows`` lines of a Criteo-format file: label, I1 … I13, C1 … C26, tabs, no header.

    Args:
        path: the file; ``.gz`` and ``.zst`` are compressed. It is written beside and then renamed.
        rows: number of lines. A longer file of the same seed begins with the shorter one.
        seed: which rows are drawn.
        ids: size of the largest vocabulary, the others in proportion but none below 100 by that; None keeps
            Kaggle's sizes, of which the largest is 10,131,227.
        signal: factor on the log-odds; 0 makes labels that nothing predicts.
        malformed: share of lines to damage, each with one of: a cell too few, a letter in a count, a byte
            that is not UTF-8, a label of 2.

    Raises:
        SlimtabError: for settings out of range, and when the file cannot be written.
    """
    if rows < 1 or (ids is not None and ids < 1) or not 0 <= malformed <= 1 or seed < 0 or signal < 0:
        raise SlimtabError(
            f"cannot make rows={rows}, ids={ids}, malformed={malformed}, seed={seed}, signal={signal}: "
            "rows and ids start at 1, malformed lies in 0 … 1, seed and signal are not negative"
        )
    world = _World(_scaled(ids), signal)
    damaged: list[int] = []
    ranking = _Ranking()
    progress = tqdm(
        total=rows, unit=" rows", unit_scale=True, desc=path.name, disable=not sys.stderr.isatty()
    )
    with _opened(path) as sink, progress:
        for start in range(0, rows, _CHUNK):
            rng = np.random.default_rng([seed, start // _CHUNK])
            drawn = world.draw(rng, _CHUNK)
            label = (rng.random(_CHUNK, dtype=np.float32) < _sigmoid(drawn.logit)).astype(np.int8)
            hit = np.flatnonzero(rng.random(_CHUNK) < malformed)
            kept = min(_CHUNK, rows - start)
            ranking.add(drawn.logit[:kept], label[:kept])
            text = _format(label, drawn, kept)
            hit = hit[hit < kept]
            sink.write(_damage(text, hit) if hit.size else text)
            damaged += (hit + start + 1).tolist()
            progress.update(kept)
    return Synthetic(rows, tuple(damaged), ranking.auc())


@dataclass(frozen=True)
class _Rows:
    """Drawn cells: ``counts`` and ``tokens`` as (values [N], missing [N]) per column, ``logit`` [N]."""

    counts: list[tuple[npt.NDArray[np.int32], Mask]]
    tokens: list[tuple[Words, Mask]]
    logit: Floats


class _World:
    """The rule behind the labels, scaled by a fixed sample so that click rate and AUC hold for any sizes."""

    def __init__(self, sizes: tuple[int, ...], signal: float) -> None:
        self.sizes = sizes
        largest = max(sizes)
        # Most of the effect sits in the large columns: those are the tables that compression squeezes.
        self.weights = [1.0 if size > largest / 5 else 0.6 for size in sizes]
        self.scales = (1.0, 1.0, 1.0)
        self.offset = 0.0
        parts = self._parts(*self._cells(np.random.default_rng(0), _CHUNK))
        by_id, by_pair, by_count = (signal / float(part.std()) for part in parts)
        self.scales = (by_id * _ID_SPREAD, by_pair * _PAIR_SPREAD, by_count * _COUNT_SPREAD)
        self.offset = _offset_for(self._logit(parts), CLICK_RATE)

    def draw(self, rng: np.random.Generator, rows: int) -> _Rows:
        counts, tokens = self._cells(rng, rows)
        return _Rows(counts, tokens, self._logit(self._parts(counts, tokens)))

    def _cells(self, rng: np.random.Generator, rows: int) -> Any:
        counts = []
        for column, (mean, spread, missing) in enumerate(_COUNTS):
            lowest = -2 if column == 1 else 0  # I2 alone goes below zero
            value = np.exp(mean + spread * rng.standard_normal(rows, dtype=np.float32)) - 0.5 + lowest
            whole = np.clip(value, lowest, 2e6).astype(np.int32)
            counts.append((whole, rng.random(rows, dtype=np.float32) < missing))
        tokens = []
        for column, size in enumerate(self.sizes):
            rank = _zipf(rng.random(rows), size)
            absent = rng.random(rows, dtype=np.float32) < _TOKEN_MISSING.get(column, 0.0)
            tokens.append((_mix(rank ^ np.uint32(0x9E3779B9 * (column + 1) & 0xFFFFFFFF)), absent))
        return counts, tokens

    def _parts(self, counts: Any, tokens: Any) -> tuple[Floats, Floats, Floats]:
        """Return the unscaled log-odds [N] from ids, from pairs of ids and from counts."""
        by_id, by_pair, by_count = np.zeros((3, len(tokens[0][0])), np.float32)
        factors = {}
        paired = {column for pair in _PAIRS for column in pair}
        for column, (token, absent) in enumerate(tokens):
            # Mixed once more, or a model that hashes tokens would find alike ids in one row.
            hidden = _mix(token ^ np.uint32(0x5BD1E995))
            present = ~absent
            by_id += self.weights[column] * _centred(hidden, 0, 16) * present
            if column in paired:
                factors[column] = [_centred(hidden, shift, 8) * present for shift in (16, 24)]
        for left, right in _PAIRS:
            for a, b in zip(factors[left], factors[right], strict=True):
                by_pair += a * b
        for column, ((value, absent), (mean, spread, _)) in enumerate(zip(counts, _COUNTS, strict=True)):
            level = (np.log1p(np.maximum(value, 0).astype(np.float32)) - mean) / spread
            curve = np.tanh(level) if column % 3 else np.cos(2 * level)
            by_count += (1 if column % 2 else -1) * curve * ~absent
        return by_id, by_pair, by_count

    def _logit(self, parts: tuple[Floats, Floats, Floats]) -> Floats:
        total = np.full(len(parts[0]), self.offset, np.float32)
        for scale, part in zip(self.scales, parts, strict=True):
            total += np.float32(scale) * part
        return total


class _Ranking:
    """AUC of a stream of scores, from counts in fine bins; the bins cover every log-odds that occurs."""

    def __init__(self) -> None:
        self.clicks = np.zeros((2, 1 << 14))

    def add(self, score: Floats, label: npt.NDArray[np.int8]) -> None:
        bins = self.clicks.shape[1]
        place = np.clip((score + 32) * (bins / 64), 0, bins - 1).astype(np.int64)
        for value in (0, 1):
            self.clicks[value] += np.bincount(place[label == value], minlength=bins)

    def auc(self) -> float:
        no, yes = self.clicks
        pairs = float(no.sum() * yes.sum())
        return float((yes * (no.cumsum() - no / 2)).sum()) / pairs if pairs else math.nan


def _scaled(ids: int | None) -> tuple[int, ...]:
    if ids is None:
        return CRITEO_KAGGLE
    share = ids / max(CRITEO_KAGGLE)
    return tuple(max(min(size, _SMALLEST_SCALED, ids), round(size * share)) for size in CRITEO_KAGGLE)


def _zipf(uniform: npt.NDArray[np.float64], size: int) -> Words:
    """Turn uniform numbers into ranks 0 … size − 1 with odds ∝ rank^−0.9, by the inverse of the integral.

    At that exponent the inverse is a tenth power, which costs four products; and over ten million ids the
    most frequent takes 2.5 % of the rows, as C3's does.
    """
    root = 1 + ((size + 1) ** 0.1 - 1) * uniform
    square = root * root
    fourth = square * square
    rank: Words = np.minimum(fourth * fourth * square - 1, size - 1).astype(np.uint32)
    return rank


def _mix(word: Words) -> Words:
    """Apply MurmurHash3's finalizer: one to one on 32 bits, so distinct ids keep distinct tokens."""
    mixed: Words = word ^ (word >> np.uint32(16))
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def _centred(word: Words, shift: int, bits: int) -> Floats:
    """Read ``bits`` bits of each word as a number in −1 … 1."""
    part = (word >> np.uint32(shift)) & np.uint32((1 << bits) - 1)
    return part.astype(np.float32) * np.float32(2 / ((1 << bits) - 1)) - np.float32(1)


def _sigmoid(logit: Floats) -> Floats:
    return np.float32(1) / (np.float32(1) + np.exp(-logit))


def _offset_for(logit: Floats, rate: float) -> float:
    """Find the offset at which the mean probability is ``rate``, by bisection."""
    low, high = -64.0, 64.0
    for _ in range(40):
        middle = (low + high) / 2
        mean = float(_sigmoid(logit + np.float32(middle)).mean())
        low, high = (middle, high) if mean < rate else (low, middle)
    return low


@functools.cache
def _hex_table() -> Words:
    """Return the four hex digits of every 16-bit number, as the bytes of one 32-bit word [65536]."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    number = np.arange(1 << 16)[:, None]
    four: Words = digits[number >> np.array([12, 8, 4, 0]) & 15].view(np.uint32).ravel()
    return four


def _format(label: npt.NDArray[np.int8], drawn: _Rows, rows: int) -> bytes:
    """Return the first ``rows`` rows as text."""
    offsets = pa.py_buffer(np.arange(0, 8 * rows + 8, 8, dtype=np.int32))
    columns = [pa.array(label[:rows])]
    columns += [pa.array(value[:rows], mask=absent[:rows]) for value, absent in drawn.counts]
    for token, absent in drawn.tokens:
        halves = np.stack([token[:rows] >> np.uint32(16), token[:rows] & np.uint32(0xFFFF)], axis=1)
        valid = pa.py_buffer(np.packbits(~absent[:rows], bitorder="little"))
        columns.append(pa.StringArray.from_buffers(rows, offsets, pa.py_buffer(_hex_table()[halves]), valid))
    sink = pa.BufferOutputStream()
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    pa.csv.write_csv(pa.table(columns, names=[str(n) for n in range(len(columns))]), sink, options)
    text: bytes = sink.getvalue().to_pybytes()
    return text


def _damage(text: bytes, hit: npt.NDArray[np.int64]) -> bytes:
    """Spoil the lines ``hit``, each kind of damage in turn."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    pieces, done = [], 0
    for kind, line in enumerate(hit.tolist()):
        start, stop = (int(ends[line - 1]) + 1 if line else 0), int(ends[line])
        cells = text[start:stop].split(b"\t")
        if kind % 4 == 0:
            cells.pop()
        elif kind % 4 == 1:
            cells[2] = b"1x"
        elif kind % 4 == 2:
            cells[20] = b"\xff\xfe0d1501"
        else:
            cells[0] = b"2"
        pieces += [text[done:start], b"\t".join(cells)]
        done = stop
    return b"".join([*pieces, text[done:]])


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing, compressed as its suffix says; it stands there only when all went well."""
    try:
        with written(path) as beside, beside.open("wb") as raw:
            if path.suffix == ".gz":
                # No name and no time in the header: the same rows give the same bytes.
                with gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed:
                    yield packed  # type: ignore[misc]
            elif path.suffix == ".zst":
                with pa.CompressedOutputStream(raw, "zstd") as packed:
                    yield packed
            else:
                yield raw
    except OSError as error:
        raise SlimtabError(f"cannot write {path}: {error.strerror or error}") from error
