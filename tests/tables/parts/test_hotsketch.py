"""The sketch against SpaceSaving written out with lists, one id after another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtab.tables.hashing import hash_rows
from slimtab.tables.parts.hotsketch import CELLS, NOBODY, HotSketch, find_in_index


class SlowSketch:
    """Buckets of at most four [key, score, is hot]."""

    def __init__(self, rows, salt):
        self.rows, self.salt, self.free = rows, salt, rows
        self.buckets = [[] for _ in range(rows)]

    def cells(self):
        return [cell for bucket in self.buckets for cell in bucket]

    def observe(self, keys, scores):
        batch = {}
        for key, score in zip(keys, scores, strict=True):
            batch[key] = batch.get(key, 0.0) + score
        known = {cell[0]: cell for cell in self.cells()}
        for key in batch.keys() & known.keys():
            known[key][1] += batch[key]
        new = sorted(batch.keys() - known.keys(), key=lambda key: -batch[key])
        turns = {}
        for key in new:
            number = int(hash_rows(torch.tensor(key), self.salt[0], self.rows))
            turns[number] = turns.get(number, 0) + 1
            bucket = self.buckets[number]
            if turns[number] > CELLS:
                continue
            if len(bucket) < CELLS:
                bucket.append([key, batch[key], False])
                continue
            open_cells = [cell for cell in bucket if not cell[2]]
            if open_cells:
                lowest = min(open_cells, key=lambda cell: cell[1])
                lowest[:] = [key, lowest[1] + batch[key], False]

    def promote(self, keys, threshold):
        ripe = [c for c in self.cells() if c[0] in set(keys) and c[1] >= threshold and not c[2]]
        chosen = sorted(ripe, key=lambda cell: -cell[1])[: self.free]
        for cell in chosen:
            cell[2] = True
        self.free -= len(chosen)
        return {cell[0] for cell in chosen}

    def cool(self, decay):
        for cell in self.cells():
            cell[1] *= decay

    def release(self, threshold):
        for cell in self.cells():
            if cell[2] and cell[1] < threshold:
                cell[2] = False
                self.free += 1


def assert_same(sketch, slow):
    """Same ids with the same scores, the same ones hot; rows are given to one id each."""
    held = {
        key: (score, row >= 0)
        for key, score, row in zip(
            sketch.key.flatten().tolist(),
            sketch.score.flatten().tolist(),
            sketch.row.flatten().tolist(),
            strict=True,
        )
        if key != NOBODY
    }
    expected = {key: (score, hot) for key, score, hot in slow.cells()}
    assert held.keys() == expected.keys()
    for key, (score, hot) in held.items():
        assert score == pytest.approx(expected[key][0], rel=1e-4)
        assert hot == expected[key][1], key
    assert int(sketch.num_free) == slow.free
    owned = sketch.row[sketch.row >= 0].tolist()
    free = sketch.free[: int(sketch.num_free)].tolist()
    assert sorted(owned + free) == list(range(sketch.num_rows))


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 20), ids=st.integers(1, 200), size=st.integers(1, 60), seed=st.integers(0, 9999))
def test_equals_spacesaving_one_by_one(rows, ids, size, seed):
    """Many ids in one bucket of one batch, ids twice in a batch, buckets full of hot ids, rows run out."""
    rng = np.random.default_rng(seed)
    sketch = HotSketch(rows)
    slow = SlowSketch(rows, sketch.salt)
    for step in range(12):
        keys = rng.zipf(1.3, size) % ids
        scores = rng.exponential(1.0, size).astype(np.float32)
        sketch.observe(torch.tensor(keys), torch.tensor(scores))
        slow.observe(keys.tolist(), scores.tolist())
        which, given_rows = sketch.promote(torch.tensor(keys), 3.0)
        assert set(keys[which.numpy()].tolist()) == slow.promote(keys.tolist(), 3.0)
        assert torch.equal(sketch.find(torch.tensor(keys[which.numpy()])), given_rows)
        if step % 4 == 3:
            for each in (sketch, slow):
                each.cool(0.7)
                each.release(3.0)
        assert_same(sketch, slow)


def test_the_last_score_is_where_rows_just_fill_up():
    """As many ids reach it as there are rows; where there are fewer ids, all of them do."""
    sketch = HotSketch(40)
    sketch.observe(torch.arange(30), torch.arange(1.0, 31.0))
    assert sketch.last_score() == 0.0
    sketch.observe(torch.arange(30, 130), torch.arange(31.0, 131.0))
    assert int((sketch.score >= sketch.last_score()).sum()) == 40


def test_an_empty_batch_changes_nothing():
    """The last multi-hot batch of a quiet feature holds no ids."""
    sketch = HotSketch(3)
    nothing = torch.empty(0, dtype=torch.int64)
    sketch.observe(nothing, torch.empty(0))
    assert [len(part) for part in sketch.promote(nothing, 1.0)] == [0, 0]
    assert bool((sketch.key == NOBODY).all())


def test_a_hot_id_is_never_thrown_out():
    """Its trained row would be lost to whoever came by."""
    sketch = HotSketch(1)
    sketch.observe(torch.arange(4), torch.full((4,), 5.0))
    which, _ = sketch.promote(torch.arange(4), 5.0)
    hot = int(which[0])
    for start in range(100, 200, 10):
        sketch.observe(torch.arange(start, start + 10), torch.full((10,), 100.0))
    assert int(sketch.find(torch.tensor([hot]))[0]) == 0


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 50), seed=st.integers(0, 9999), small=st.booleans())
def test_the_index_finds_exactly_the_hot_ids(rows, seed, small):
    """Served: no scores, no empty cells; the last buckets may be empty while every row is taken."""
    rng = np.random.default_rng(seed)
    sketch = HotSketch(rows)
    keys = torch.tensor(rng.integers(0, 400 if small else 2**63 - 1, 300))
    sketch.observe(keys, torch.tensor(rng.exponential(1.0, 300).astype(np.float32)))
    sketch.promote(keys, 0.5)
    starts, index, order = sketch.index()
    assert (len(starts), len(index), len(order)) == (rows, rows + CELLS, rows)
    asked = torch.cat([keys, torch.arange(500)])
    place = find_in_index(asked, index.int() if small else index, starts, sketch.salt)
    found = torch.where(place >= 0, order[place.clamp(min=0)], -1)
    assert torch.equal(found, sketch.find(asked))


def test_heavy_ids_are_found_in_a_stream():
    """The promise of the paper: ids that matter come to own rows, whatever their numbers are."""
    rng = np.random.default_rng(0)
    sketch = HotSketch(50)
    name = torch.tensor(rng.integers(0, 2**63 - 1, 20_000))  # of the n-th most frequent id
    for _ in range(400):
        keys = name[torch.tensor(rng.zipf(1.3, 500) % 20_000)]
        sketch.observe(keys, torch.ones(500))
        sketch.promote(keys, 100.0)
    assert float((sketch.find(name[1:21]) >= 0).float().mean()) >= 0.95
    assert float((sketch.find(name[1000:]) >= 0).float().mean()) < 0.01
