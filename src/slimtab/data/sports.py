"""The sports interactions as rows: positives in time order, sampled negatives, item categories.

The usual protocol for such data: a user's last item is for testing, the one before for validation, the
rest for training; each positive gets two negatives that the user never touched, each drawn by popularity
(of training interactions) or uniformly with probability ½.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from slimtab.data.readers import Piece, RawRows
from slimtab.data.sources import read_blocks
from slimtab.errors import SlimtabError

INTERACTIONS = "sports.txt.gz"
CATEGORIES = "item2attributes.json.gz"
NEGATIVES = 2
_PIECE_ROWS = 131_072


def find_sports(source: Path) -> tuple[Path, Path]:
    """Return the interactions file and the categories file beside it.

    Raises:
        SlimtabError: when one of them is missing.
    """
    folder = source if source.is_dir() else source.parent
    interactions = folder / INTERACTIONS if source.is_dir() else source
    for path in (interactions, folder / CATEGORIES):
        if not path.is_file():
            raise SlimtabError(
                f"{path} does not exist; sports needs {INTERACTIONS} and {CATEGORIES} in one folder"
            )
    return interactions, folder / CATEGORIES


@dataclass(frozen=True)
class SportsReader:
    """The rows, in the order train, valid, test.

    Attributes:
        path: the interactions file.
        user: of each row [rows] int64.
        item: of each row [rows] int64.
        label: 1 for an interaction, 0 for a negative [rows] int8.
        bounds: where the rows of train, valid and test end.
        categories: of each item [items] (list of tokens).
    """

    path: Path
    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    bounds: tuple[int, int, int]
    categories: pa.ListArray

    @classmethod
    def open(cls, interactions: Path, categories: Path, seed: int) -> SportsReader:
        """Read both files and draw the negatives.

        Raises:
            SlimtabError: when a file is damaged.
        """
        users, lengths, items = _read_interactions(interactions)
        user = np.repeat(users, lengths)
        # 0 for a user's last item, 1 for the one before, …
        age = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(items))
        negatives = _negatives(user, items, age >= 2, np.random.default_rng(seed))
        per_positive = 1 + NEGATIVES
        item = np.concatenate([items[:, None], negatives], axis=1).reshape(-1)
        label = np.tile(np.array([1] + [0] * NEGATIVES, dtype=np.int8), len(items))
        which = np.repeat(np.where(age >= 2, 0, 2 - age), per_positive)
        order = np.argsort(which, kind="stable")
        train, valid, test = np.cumsum(np.bincount(which, minlength=3)).tolist()
        lists = _read_categories(categories, int(items.max()) + 1)
        return cls(
            interactions,
            np.repeat(user, per_positive)[order],
            item[order],
            label[order],
            (train, valid, test),
            lists,
        )

    def pieces(self, start: int = 0, line: int = 1) -> Iterator[Piece]:
        """Yield the rows in pieces; ``start`` counts rows."""
        for low in range(start, len(self.item), _PIECE_ROWS):
            high = min(low + _PIECE_ROWS, len(self.item))
            yield Piece(low, high, high + 1, partial(self.parse, low, high))

    def parse(self, low: int, high: int) -> RawRows:
        """Return rows ``low`` … ``high`` − 1 as the raw columns label, user, item and categories."""
        table = pa.table(
            {
                "label": self.label[low:high],
                "user": self.user[low:high],
                "item": self.item[low:high],
                "categories": self.categories.take(pa.array(self.item[low:high])),
            }
        )
        return RawRows(table, np.ones(high - low, dtype=bool), self.path)


def _read_interactions(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the users [U], how many items each has [U], and all items in user and time order [N]."""
    text = b"".join(block.data for block in read_blocks(path, 2**24))
    lines = [line for line in text.split(b"\n") if line.strip()]
    try:
        numbers = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise SlimtabError(f"{path} holds something other than user and item numbers ({error})") from error
    widths = np.array([len(line.split()) for line in lines], dtype=np.int64)
    if len(widths) == 0 or widths.min() < 2 or numbers.min() < 0:
        raise SlimtabError(f"{path}: every line needs a user number and at least one item number")
    firsts = np.cumsum(widths) - widths
    return numbers[firsts], widths - 1, np.delete(numbers, firsts)


def _negatives(
    user: np.ndarray, item: np.ndarray, training: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return items [N, NEGATIVES] that the row's user never touched, in any split."""
    count = int(item.max()) + 1
    known = np.unique(item)
    touched = np.unique(user * count + item)
    most = np.bincount(np.unique(touched // count, return_inverse=True)[1]).max()
    if most >= len(known):
        raise SlimtabError(
            "a user has touched every item, so no negative can be drawn for them; drop that user"
        )
    popular = item[training] if training.any() else item
    owner = np.repeat(user, NEGATIVES)
    drawn = np.empty(len(owner), dtype=np.int64)
    open_rows = np.arange(len(owner))
    while len(open_rows):
        # A random training interaction is an item drawn by its popularity.
        by_popularity = popular[rng.integers(0, len(popular), len(open_rows))]
        uniform = known[rng.integers(0, len(known), len(open_rows))]
        candidate = np.where(rng.random(len(open_rows)) < 0.5, by_popularity, uniform)
        pairs = owner[open_rows] * count + candidate
        place = np.minimum(np.searchsorted(touched, pairs), len(touched) - 1)
        fresh = touched[place] != pairs
        drawn[open_rows[fresh]] = candidate[fresh]
        open_rows = open_rows[~fresh]
    return drawn.reshape(-1, NEGATIVES)


def _read_categories(path: Path, items: int) -> pa.ListArray:
    """Return each item's distinct categories, in the file's order; none for an item not in the file."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found = json.load(file)
        lists = {
            int(item): list(dict.fromkeys(str(category) for category in row)) for item, row in found.items()
        }
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise SlimtabError(
            f"{path} cannot be read as item → categories ({error}); download it again"
        ) from error
    return pa.array([lists.get(item, []) for item in range(items)], pa.list_(pa.string()))
