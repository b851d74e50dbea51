"""Read a prepared split in batches: columns in, matrices out, shuffled by a seed, from any position.

A split is a row of Arrow files. Each record batch is a *block* of contiguous rows. An epoch permutes the
blocks, gathers :data:`BUFFER_BLOCKS` of them at a time into a row-major buffer (so that picking a row touches
two or three cache lines instead of one per column) and permutes the rows inside it. A split that fits into
one buffer is therefore shuffled completely, and memory stays at one buffer for any other.

Several ranks read the same batches, each its share of every one: rows are in the same step however many ranks
there are, no rank has a step more than another, and a position means the same to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from slimtab.batch import Batch, Ragged
from slimtab.data.mapped import Shard, open_split
from slimtab.errors import SlimtabError
from slimtab.schema import Schema

BLOCK_ROWS = 16_384
BUFFER_BLOCKS = 64  # a million rows: 160 MB for Criteo's 13 numbers, 26 ids and a label

Index = npt.NDArray[np.int64]


class Share(NamedTuple):
    """Which part of each batch a loader hands out: that of rank ``rank`` of ``ranks``."""

    rank: int = 0
    ranks: int = 1

    def of(self, rows: int) -> tuple[int, int]:
        """Return where the share of a batch of ``rows`` begins and ends; shares differ by a row at most."""
        return self.rank * rows // self.ranks, (self.rank + 1) * rows // self.ranks


WHOLE = Share()


class Loader:
    """Batches of one split of a dataset folder, epoch after epoch.

    Iterating yields the rest of the current epoch and then moves on to the next one, which has an order of
    its own. The position counts batches handed out, so :meth:`state_dict` may be taken while a loop is
    running; leaving a loop early and starting another one goes on behind the last batch.

    Args:
        folder: the dataset folder, with ``schema.json`` in it.
        split: ``train``, ``valid`` or ``test``.
        batch_size: rows per batch; the last of an epoch may be smaller.
        shuffle: permute the rows of each epoch; otherwise they come in the order of the files.
        seed: of the permutations.
        drop_last: leave out a last batch that is smaller than the others.
        share: hand out this share of each batch, which may be no row of a small one; all of it by default.
        place: brings a batch to where it is used. Then batches are made one ahead, in a thread.

    Attributes:
        schema: the dataset's columns.
        rows: number of rows in the split.

    Raises:
        SlimtabError: when the split is missing, a shard is damaged or has other columns, or the number of
            rows is not the one that the schema names.

    Example:
        >>> for batch in Loader(Path("data/criteo"), "train", 4096, shuffle=True):  # doctest: +SKIP
        ...     loss = model(batch)
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        share: Share = WHOLE,
        place: Callable[[Batch], Batch] | None = None,
    ) -> None:
        if batch_size < 1 or seed < 0:
            raise SlimtabError(
                f"batch_size={batch_size}, seed={seed}: a batch needs a row, a seed is not negative"
            )
        self.schema = Schema.load(folder / "schema.json")
        self.batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._drop_last = drop_last
        self._share = share
        self._place = place
        self._blocks = [
            _Block(shard, number, start, min(BLOCK_ROWS, rows - start))
            for shard in open_split(folder, split, self.schema)
            for number, rows in enumerate(shard.batch_rows)
            for start in range(0, rows, BLOCK_ROWS)
        ]
        self.rows = sum(block.rows for block in self._blocks)
        self._epoch = 0
        self._batch = 0

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        whole, rest = divmod(self.rows, self.batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def state_dict(self) -> dict[str, int]:
        """Return the position: ``epoch`` and ``batch`` to hand out next, and the settings it holds for.

        After the last batch of an epoch, and before its loop has ended, ``batch`` equals ``len(loader)``: the
        epoch's loop is then empty on resuming, and what follows the loop still runs.
        """
        return {"epoch": self._epoch, "batch": self._batch, **self._settings()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position from :meth:`state_dict`.

        Raises:
            SlimtabError: when it was taken with another seed, batch size, order or number of rows.
        """
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise SlimtabError(
                    f"the saved position is one for {name}={state.get(name)} and this loader has {value}; "
                    "resume with the same data and settings, or start a new run"
                )
        self._epoch, self._batch = state["epoch"], state["batch"]

    def __iter__(self) -> Iterator[Batch]:
        batches = self._from(self._epoch, self._batch)
        for batch in batches if self._place is None else ahead(batches, self._place):
            self._batch += 1
            yield batch
        self._epoch += 1
        self._batch = 0

    def _settings(self) -> dict[str, int]:
        return {
            "seed": self._seed,
            "batch_size": self.batch_size,
            "shuffle": int(self._shuffle),
            "rows": self.rows,
        }

    def _from(self, epoch: int, batch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``batch`` on."""
        skip = batch * self.batch_size
        left = len(self) - batch
        pieces: list[_Piece] = []
        size = missing = self._size(batch)
        first, last = self._share.of(size)
        buffer = None
        for number, blocks in enumerate(self._fillings(epoch)):
            rows = sum(block.rows for block in blocks)
            if skip >= rows:
                skip -= rows
                continue
            buffer = buffer or _Buffer(self.schema, BLOCK_ROWS * len(blocks))
            buffer.fill(blocks)
            # Drawn from a generator of its own, so that skipped fillings need not be drawn.
            order = self._generator(epoch, number + 1).permutation(rows) if self._shuffle else np.arange(rows)
            while skip < rows and left:
                picked = order[skip : skip + missing]
                have = size - missing  # rows of this batch that earlier fillings gave
                pieces.append(buffer.take(picked[max(0, first - have) : max(0, last - have)]))
                skip += len(picked)
                missing -= len(picked)
                if not missing:
                    yield self._assemble(pieces, size)
                    pieces, left = [], left - 1
                    size = missing = self._size(len(self) - left)
                    first, last = self._share.of(size)
            skip = 0

    def _size(self, batch: int) -> int:
        """Return the rows of batch number ``batch``, all ranks' together."""
        return min(self.batch_size, self.rows - batch * self.batch_size)

    def _fillings(self, epoch: int) -> list[list[_Block]]:
        """Return the blocks of each filling of the buffer, in the epoch's order."""
        if not self._shuffle:
            return [[block] for block in self._blocks]
        order = self._generator(epoch, 0).permutation(len(self._blocks)).tolist()
        mixed = [self._blocks[number] for number in order]
        return [mixed[start : start + BUFFER_BLOCKS] for start in range(0, len(mixed), BUFFER_BLOCKS)]

    def _generator(self, epoch: int, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, epoch, number])))

    def _assemble(self, pieces: list[_Piece], size: int) -> Batch:
        """Join what one batch took from one filling or from several."""
        cells = _joined([piece.cells for piece in pieces])
        ids, dense, label = _split(cells, self.schema)
        ragged = None
        if self.schema.multi_hot:
            lists = list(zip(*(piece.lists for piece in pieces), strict=True))
            values = np.concatenate([part.values for feature in lists for part in feature])
            lengths = np.stack([_joined([part.lengths for part in feature]) for feature in lists])
            ragged = Ragged(
                tuple(feature.name for feature in self.schema.multi_hot),
                torch.from_numpy(values.astype(np.int64, copy=False)),
                torch.from_numpy(lengths),
            )
        return Batch(
            dense=torch.from_numpy(dense.copy()),
            keys=tuple(feature.name for feature in self.schema.one_hot),
            ids=torch.from_numpy(ids.astype(np.int64, order="C")),
            label=torch.from_numpy(label.astype(np.float32)),
            ragged=ragged,
            whole=None if self._share.ranks == 1 else size,
        )


def ahead(batches: Iterator[Batch], place: Callable[[Batch], Batch]) -> Iterator[Batch]:
    """Yield batches that ``place`` has put where they are used, each made while the one before it is used."""

    def make() -> Batch | None:
        batch = next(batches, None)
        return None if batch is None else place(batch)

    with ThreadPoolExecutor(max_workers=1) as maker:
        coming = maker.submit(make)
        while (batch := coming.result()) is not None:
            coming = maker.submit(make)
            yield batch


class _Block(NamedTuple):
    shard: Shard
    number: int
    start: int
    rows: int

    def columns(self) -> Any:
        return self.shard.read(self.number).slice(self.start, self.rows)


@dataclass(frozen=True)
class _Lists:
    """A multi-hot column: ``values`` [N] row after row, ``lengths`` [rows] int64."""

    values: npt.NDArray[Any]
    lengths: Index

    def take(self, picked: Index, starts: Index) -> _Lists:
        lengths = self.lengths[picked]
        # Counting up inside each picked row: the row's start, less where its values begin in the result.
        shift = starts[picked] - (np.cumsum(lengths) - lengths)
        return _Lists(self.values[np.repeat(shift, lengths) + np.arange(lengths.sum())], lengths)


@dataclass(frozen=True)
class _Piece:
    """Rows picked from a buffer: fixed-width ``cells`` [N, words] and the multi-hot columns."""

    cells: npt.NDArray[np.int32]
    lists: list[_Lists]


def _split(
    cells: npt.NDArray[np.int32], schema: Schema
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return views of 32-bit cells [N, words] as ids [N, F], dense [N, I] and label [N].

    One matrix for all of them, because a row then costs one gather instead of three. Ids come first, where
    they are aligned as 64-bit numbers too.
    """
    wide = _wide(schema)
    ids, dense, label = np.split(
        cells, np.cumsum([len(schema.one_hot) * (1 + wide), len(schema.numerics)]), axis=1
    )
    return ids.view(np.int64) if wide else ids, dense.view(np.float32), label[:, 0]


def _wide(schema: Schema) -> bool:
    return any(feature.encoding == "hash" for feature in schema.one_hot)


class _Buffer:
    """Rows of several blocks, row-major, so that one row's cells lie side by side."""

    def __init__(self, schema: Schema, capacity: int) -> None:
        self._schema = schema
        words = len(schema.one_hot) * (1 + _wide(schema)) + len(schema.numerics) + 1
        self._cells = np.empty((capacity, words), np.int32)
        self._ids, self._dense, self._label = _split(self._cells, schema)
        self._lists: list[_Lists] = []
        self._starts: list[Index] = []

    def fill(self, blocks: list[_Block]) -> None:
        """Replace the contents by the rows of ``blocks``."""
        schema = self._schema
        parts: list[list[_Lists]] = [[] for _ in schema.multi_hot]
        end = 0
        for block in blocks:
            columns = block.columns()
            start, end = end, end + block.rows
            self._label[start:end] = _cells(columns[schema.raw.label])
            for number, numeric in enumerate(schema.numerics):
                self._dense[start:end, number] = _cells(columns[numeric.name])
            for number, feature in enumerate(schema.one_hot):
                self._ids[start:end, number] = _cells(columns[feature.name])
            for part, feature in zip(parts, schema.multi_hot, strict=True):
                # The offsets follow the slice, the values do not.
                offsets = _cells(columns[feature.name].offsets)
                values = _cells(columns[feature.name].values)[offsets[0] : offsets[-1]]
                part.append(_Lists(values, np.diff(offsets).astype(np.int64)))
        self._lists = [
            _Lists(np.concatenate([p.values for p in part]), np.concatenate([p.lengths for p in part]))
            for part in parts
        ]
        self._starts = [np.cumsum(lists.lengths) - lists.lengths for lists in self._lists]

    def take(self, picked: Index) -> _Piece:
        """Copy the rows at ``picked`` [N]."""
        lists = [part.take(picked, starts) for part, starts in zip(self._lists, self._starts, strict=True)]
        return _Piece(self._cells.take(picked, axis=0), lists)


def _cells(array: Any) -> npt.NDArray[Any]:
    cells: npt.NDArray[Any] = array.to_numpy(zero_copy_only=True)
    return cells


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
