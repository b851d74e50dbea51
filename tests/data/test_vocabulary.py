"""Vocabularies: external counting against a Counter, lookup against a dict."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimtab.data import vocabulary as vocabulary_module
from slimtab.data.chunks import Chunk
from slimtab.data.counting import build_vocabulary, plan_ids
from slimtab.data.options import PrepOptions
from slimtab.data.split import Split
from slimtab.data.vocabulary import Vocabulary, look_up

words = st.lists(
    st.sampled_from([f"t{i}" for i in range(30)] + ["", "é", "\x00", "long " * 9]), min_size=1, max_size=60
)


def write_chunks(folder: Path, columns: list[list[str]]) -> list[Chunk]:
    chunks = []
    for number, tokens in enumerate(columns):
        batch = pa.record_batch({"C": pa.array(tokens, pa.string()).dictionary_encode()})
        path = folder / f"{number}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        distinct = {"C": len(batch["C"].dictionary)}
        chunks.append(Chunk(path, len(tokens), 0, 0, 0, 0, distinct))
    return chunks


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.lists(words, min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([5, 20, 1000]),
    st.sampled_from(["chronological", "random"]),
)
def test_external_counting_equals_a_counter(
    tmp_path: Path, columns: list[list[str]], min_count: int, limit: int, rule: str
) -> None:
    chunks = write_chunks(tmp_path, columns)
    split = Split.of([len(tokens) for tokens in columns], PrepOptions("criteo", split=rule))  # type: ignore[arg-type]
    ids = plan_ids("C", 0, chunks, limit, tmp_path)
    target = tmp_path / "C.parquet"
    known = build_vocabulary("C", chunks, split, min_count, ids, limit, target)

    training = [
        tokens[row] for number, tokens in enumerate(columns) for row in split.rows_of(number, "train")
    ]
    counts = Counter(training)
    expected = sorted((-count, token) for token, count in counts.items() if count >= min_count)
    found = pq.read_table(target).to_pydict()
    assert known == len(expected)
    assert found["token"] == [None, *(token for _, token in expected)]
    assert found["id"] == list(range(len(expected) + 1))
    assert found["count"] == [
        sum(counts.values()) + sum(c for c, _ in expected),
        *(-count for count, _ in expected),
    ]

    id_of = {token: number for number, (_, token) in enumerate(expected, start=1)}
    loaded = Vocabulary.load(target)
    for number, tokens in enumerate(columns):
        dictionary = pa.array(tokens, pa.string()).dictionary_encode().dictionary
        wanted = [id_of.get(token, 0) for token in dictionary.to_pylist()]
        assert ids.of_chunk(number, chunks[number]).tolist() == wanted
        assert look_up([loaded], [dictionary])[0].tolist() == wanted


WORDS = st.text(max_size=20)


@given(st.lists(st.tuples(st.sets(WORDS, max_size=20), st.lists(WORDS, max_size=20)), max_size=4))
def test_lookup_equals_a_dict_for_each_feature(features: list[tuple[set[str], list[str]]]) -> None:
    known = [sorted(tokens) for tokens, _ in features]
    # Every feature is asked for what the first knows too.
    asked = [strange + own + known[0] for (_, strange), own in zip(features, known, strict=True)]
    found = look_up(
        [Vocabulary(pa.array(own, pa.string())) for own in known],
        [pa.array(queries, pa.string()) for queries in asked],
    )
    assert [ids.dtype for ids in found] == [np.int32] * len(features)
    assert [ids.tolist() for ids in found] == [
        [own.index(query) + 1 if query in own else 0 for query in queries]
        for own, queries in zip(known, asked, strict=True)
    ]


def test_an_unknown_token_with_a_known_hash_stays_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary(pa.array(["a"]))
    monkeypatch.setattr(
        vocabulary_module, "hash_tokens", lambda tokens, salt: np.repeat(vocabulary._hashes, len(tokens))
    )
    assert look_up([vocabulary], [pa.array(["b", "a"])])[0].tolist() == [0, 1]


def test_two_known_tokens_with_one_hash_are_parted_by_another_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(tokens: pa.StringArray, salt: int | np.ndarray) -> np.ndarray:
        lengths = np.array([len(token) for token in tokens.to_pylist()], dtype=np.int64)
        return np.where(np.asarray(salt) == 0, lengths % 2, lengths)

    monkeypatch.setattr(vocabulary_module, "hash_tokens", colliding)
    vocabulary = Vocabulary(pa.array(["a", "abc"]))
    assert look_up([vocabulary], [pa.array(["abc", "a", "ab"])])[0].tolist() == [2, 1, 0]
