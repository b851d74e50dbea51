"""HotSketch: finds the ids that matter most while they stream by, and gives each a row of its own.

Zhang et al., "CAFE: towards compact, adaptive, and fast embedding for large-scale recommendation models",
SIGMOD 2024. Ids fall into buckets of four cells; inside a bucket the rule is SpaceSaving (Metwally et al.,
ICDT 2005): an id that has a cell adds to its score, a new one takes an empty cell, or the cell with the
lowest score, whose score it inherits. A bucket never holds more than four hot ids, so that the frozen
index (:meth:`HotSketch.index`) needs one start per bucket and one read of four keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.tables.hashing import hash_rows, make_salts
from slimtab.tables.parts.distinct import distinct
from slimtab.tables.parts.windows import read_windows

CELLS = 4
NOBODY = -1  # no key is negative


class HotSketch(nn.Module):
    """As many buckets as there are rows to give away, and a stack of the rows that are free.

    Args:
        num_rows: rows for hot ids, at least one.
    """

    key: Tensor  # [w, 4] int64, NOBODY in an empty cell
    score: Tensor  # [w, 4] float32
    row: Tensor  # [w, 4] int32, -1 for an id that is not hot
    free: Tensor  # [w] int32, of which the first num_free count
    num_free: Tensor
    salt: Tensor

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.register_buffer("key", torch.full((num_rows, CELLS), NOBODY))
        self.register_buffer("score", torch.zeros(num_rows, CELLS))
        self.register_buffer("row", torch.full((num_rows, CELLS), -1, dtype=torch.int32))
        self.register_buffer("free", torch.arange(num_rows, dtype=torch.int32))
        self.register_buffer("num_free", torch.tensor(num_rows))
        self.register_buffer("salt", make_salts(["hotsketch"], 1)[0])

    def find(self, keys: Tensor) -> Tensor:
        """Return the row [N] int64 of each of ``keys`` [N] int64, -1 where it has none."""
        bucket = hash_rows(keys, self.salt, self.num_rows)
        same = F.embedding(bucket, self.key) == keys[:, None]
        return torch.where(same, F.embedding(bucket, self.row), -1).amax(dim=1).long()

    @torch.no_grad()
    def observe(self, keys: Tensor, scores: Tensor) -> None:
        """Add ``scores`` [N] float32 to ``keys`` [N] int64, as one batch.

        Of the ids new to a bucket the four with the highest scores come in, highest first, so that the work
        is bounded; the others are dropped, as if the batch had not held them. So is an id whose bucket has
        four hot ones.
        """
        bucket, cell, held = self._locate(keys)
        self.score.view(-1).index_add_(0, cell[held], scores[held])
        new = ~held
        each = distinct(keys[new])
        total = scores.new_zeros(len(each.values)).index_add_(0, each.inverse, scores[new])
        bucket = bucket[new][each.places]
        falling = total.argsort(descending=True, stable=True)
        grouped = distinct(bucket[falling])
        place = grouped.inverse[grouped.order]
        turn = torch.arange(len(place), device=place.device) - grouped.starts[place]
        order = falling[grouped.order]
        for number in range(CELLS):
            now = order[turn == number]
            self._enter(each.values[now], bucket[now], total[now])

    @torch.no_grad()
    def promote(self, keys: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Give free rows to those of ``keys`` [N] whose score has reached ``threshold``, highest first.

        Returns:
            Positions among ``keys`` [M], each id once, and the rows they now own [M]; both int64.
        """
        _, cell, held = self._locate(keys)
        ripe = held & (self.score.view(-1)[cell] >= threshold) & (self.row.view(-1)[cell] < 0)
        position = ripe.nonzero().squeeze(1)
        each = distinct(cell[position])
        falling = self.score.view(-1)[each.values].argsort(descending=True, stable=True)
        left = int(self.num_free)
        falling = falling[:left]
        rows = self.free[left - len(falling) : left].clone()
        self.row.view(-1)[each.values[falling]] = rows
        self.num_free -= len(falling)
        return position[each.places[falling]], rows.long()

    @torch.no_grad()
    def cool(self, decay: float) -> None:
        """Multiply all scores by ``decay``."""
        self.score *= decay

    def last_score(self) -> float:
        """Return the score of the last id that would get a row if they were dealt out by score now."""
        return float(self.score.view(-1).topk(self.num_rows).values[-1])

    @torch.no_grad()
    def release(self, threshold: float) -> None:
        """Take back the rows of ids whose score is below ``threshold``."""
        cold = (self.row >= 0) & (self.score < threshold)
        rows = self.row[cold]
        left = int(self.num_free)
        self.free[left : left + len(rows)] = rows
        self.num_free += len(rows)
        self.row[cold] = -1

    def index(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hot ids laid bucket after bucket: what serving needs, without scores or empty cells.

        Returns:
            ``starts`` [w] int32, where each bucket begins; ``keys`` [w + 4] int64, of the hot ids, then
            NOBODY; and ``order`` [w] int64, the row each of them owns.
        """
        hot = self.row.view(-1) >= 0
        upto = hot.cumsum(0)
        place = torch.where(hot, upto - 1, self.num_rows)  # one place too many, for the ids that are not hot
        keys = torch.full((self.num_rows + CELLS,), NOBODY, device=hot.device)
        keys = keys.scatter(0, place, torch.where(hot, self.key.view(-1), NOBODY))
        order = torch.zeros(self.num_rows + 1, dtype=torch.int64, device=hot.device)
        order = order.scatter(0, place, self.row.view(-1).long())[:-1]
        starts = upto.view(-1, CELLS)[:, -1] - hot.view(-1, CELLS).sum(dim=1)
        return starts.int(), keys, order

    def _locate(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return bucket [N], cell [N] (bucket · 4 + place) and whether the cell holds the key [N]."""
        bucket = hash_rows(keys, self.salt, self.num_rows)
        same = F.embedding(bucket, self.key) == keys[:, None]
        return bucket, bucket * CELLS + same.int().argmax(dim=1), same.any(dim=1)

    def _enter(self, keys: Tensor, bucket: Tensor, scores: Tensor) -> None:
        """Put ``keys`` [M], each in a ``bucket`` [M] of its own, over the lowest cell that is not hot."""
        there = self.score[bucket].masked_fill(self.row[bucket] >= 0, torch.inf)
        least, place = there.min(dim=1)
        cell, room = bucket * CELLS + place, least < torch.inf
        self.key.view(-1)[cell[room]] = keys[room]
        self.score.view(-1)[cell[room]] = least[room] + scores[room]


def find_in_index(keys: Tensor, index: Tensor, starts: Tensor, salt: Tensor) -> Tensor:
    """Return where each of ``keys`` [N] int64 stands in what :meth:`HotSketch.index` made [N], or -1."""
    start = starts.index_select(0, hash_rows(keys, salt, len(starts))).long()
    # The four keys read may reach into the next buckets; a key stands in one place only.
    same = read_windows(index, start, CELLS) == keys.to(index.dtype)[:, None]
    # Four flags at most one of which is set, read as one number: 1, 2^8, 2^16 or 2^24 in memory's order.
    flags = same.view(torch.int32).squeeze(1)
    place = (flags > 1).long() + (flags > 1 << 8) + (flags > 1 << 16)
    return torch.where(flags != 0, start + place, -1)
