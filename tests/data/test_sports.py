"""The sports protocol on the real file."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from prep_helpers import digest, read_split, shared_data

from slimtab.data.encode import Encoder
from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.data.sports import SportsReader, find_sports
from slimtab.errors import SlimtabError


@pytest.fixture(scope="module")
def histories() -> dict[int, list[int]]:
    with gzip.open(shared_data() / "sports" / "sports.txt.gz", "rt") as file:
        rows = [[int(number) for number in line.split()] for line in file]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def reader() -> SportsReader:
    return SportsReader.open(*find_sports(shared_data() / "sports"), seed=0)


def test_positives_follow_the_protocol(reader: SportsReader, histories: dict[int, list[int]]) -> None:
    low = 0
    for high, part in zip(reader.bounds, (slice(None, -2), slice(-2, -1), slice(-1, None)), strict=True):
        positive = reader.label[low:high] == 1
        found = list(zip(reader.user[low:high][positive], reader.item[low:high][positive], strict=True))
        assert found == [(user, item) for user, items in histories.items() for item in items[part]]
        assert positive.tolist() == [True, False, False] * (len(positive) // 3)
        low = high


def test_negatives_were_never_touched_and_half_follow_popularity(
    reader: SportsReader, histories: dict[int, list[int]]
) -> None:
    negative = reader.label == 0
    touched = {(user, item) for user, items in histories.items() for item in items}
    drawn = list(zip(reader.user[negative].tolist(), reader.item[negative].tolist(), strict=True))
    assert not touched.intersection(drawn)
    popularity = Counter(item for items in histories.values() for item in items[:-2])
    share = np.array([popularity[item] for _, item in drawn]).mean()
    total = sum(popularity.values())
    by_popularity = sum(count * count for count in popularity.values()) / total
    uniform = total / len({item for items in histories.values() for item in items})
    assert share == pytest.approx((by_popularity + uniform) / 2, rel=0.03)


def test_dataset(tmp_path: Path, histories: dict[int, list[int]]) -> None:
    source = shared_data() / "sports"
    schema = prepare(source, tmp_path / "a", PrepOptions("sports"), progress=False)
    prepare(source / "sports.txt.gz", tmp_path / "b", PrepOptions("sports"), progress=False)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    users = len(histories)
    assert schema.rows["valid"] == schema.rows["test"] == 3 * users
    user, item, categories = schema.features
    assert (user.num_ids, categories.multi_hot, categories.pooling) == (users + 1, True, "mean")
    test = read_split(tmp_path / "a", "test")
    assert (test["user"].to_numpy() > 0).all()
    assert item.num_ids > 18_000
    with gzip.open(source / "item2attributes.json.gz", "rt") as file:
        attributes = json.load(file)
    last = next(iter(histories.values()))[-1]
    rows = {"label": [1], "user": [next(iter(histories))], "item": [last]}
    distinct = list(dict.fromkeys(str(category) for category in attributes[str(last)]))
    import pyarrow as pa

    encoded = Encoder.load(tmp_path / "a").encode(pa.table({**rows, "categories": [distinct]}))
    assert encoded.to_pylist() == test.slice(0, 1).to_pylist()


def test_seed_changes_negatives_only(reader: SportsReader) -> None:
    other = SportsReader.open(*find_sports(shared_data() / "sports"), seed=1)
    positive = reader.label == 1
    assert (other.item[positive] == reader.item[positive]).all()
    assert (other.item[~positive] != reader.item[~positive]).mean() > 0.9


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 2 3", "2 x"], "something other than user and item numbers"),
        (["1 2 3", "7"], "at least one item"),
        (["1 1 2 3", "2 1 1 2"], "touched every item"),
    ],
)
def test_damaged_files(tmp_path: Path, lines: list[str], message: str) -> None:
    with gzip.open(tmp_path / "sports.txt.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    with gzip.open(tmp_path / "item2attributes.json.gz", "wt") as file:
        json.dump({"1": [1]}, file)
    with pytest.raises(SlimtabError, match=message):
        prepare(tmp_path, tmp_path / "out", PrepOptions("sports"), progress=False)


def test_missing_categories(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "sports.txt.gz", "wt") as file:
        file.write("1 2 3\n")
    with pytest.raises(SlimtabError, match=r"item2attributes\.json\.gz does not exist"):
        prepare(tmp_path, tmp_path / "out", PrepOptions("sports"), progress=False)
