"""Timing frozen lookups: what is compared with what, and that a slower table is seen to be slower."""

import time

import pytest
import torch

from slimtab.collection import TableCollection
from slimtab.schema import Feature
from slimtab.serving.lookup import in_turns, lookup_speed

FEATURES = [Feature("a", 1000), Feature("b", 20), Feature("tags", 300, multi_hot=True)]


def frozen(method="hash", features=FEATURES, budget="50%"):
    return TableCollection.build(features, 8, method, budget).freeze().eval()


def test_turns_are_taken():
    """A B A B: a machine that slows down does so for both."""
    calls = []
    found = in_turns([lambda call: calls.append("a"), lambda call: calls.append("b")], rounds=2, calls=1)
    assert "".join(calls) == "aabbaabb"  # the first of each turn is not timed
    assert [len(times) for times in found] == [2, 2]


def test_a_slow_one_has_fewer_rounds():
    """A table that takes a second per lookup must not take a minute to be measured."""
    found = in_turns([lambda call: time.sleep(0.02)], rounds=1000, calls=1, seconds=0.1)
    assert 1 <= len(found[0]) <= 4


def work(seconds):
    """Keep the processor busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_others_on_the_processor_do_not_count():
    """What a table waits for is not its own time: runs side by side would all look slow."""
    tables = frozen()
    lookup, table = tables.table.forward, tables.table
    table.forward = lambda ids, slot: (time.sleep(0.02), lookup(ids, slot))[1]
    assert lookup_speed(tables)["ms"] < 20


def test_a_slower_table_is_seen():
    """The ratio is the table's time over the full table's, not the reverse."""
    tables = frozen()
    lookup, table = tables.table.forward, tables.table
    table.forward = lambda ids, slot: (work(0.02), lookup(ids, slot))[1]
    slow = lookup_speed(tables)
    assert slow["ms"] > 20
    assert slow["ratio_low"] <= slow["ratio"] <= slow["ratio_high"]
    assert slow["ratio"] > 2


@pytest.mark.parametrize("encoding", ["vocab", "hash"])
def test_any_columns(encoding):
    """One-hot and multi-hot, numbered and hashed; torch's threads are the caller's again."""
    before = torch.get_num_threads()
    features = [Feature(f.name, f.num_ids, encoding, multi_hot=f.multi_hot) for f in FEATURES]
    for some in (features, features[:2], features[2:]):
        speed = lookup_speed(frozen(features=some))
        assert min(speed.values()) > 0
    assert torch.get_num_threads() == before
