"""schema.json: written once by prep, trusted by everything after it."""

import dataclasses
import json

import pytest

from slimtab.errors import SlimtabError
from slimtab.schema import Feature, Numeric, RawFormat, Schema
from slimtab.testing import fake_schema

SCHEMA = Schema(
    raw=RawFormat("table", label="click", separator=";"),
    numerics=(Numeric("price", "standard", 3.5, 0.25), Numeric("age")),
    features=(
        Feature("user", 1000),
        Feature("tags", 50, multi_hot=True, pooling="mean"),
        Feature("shop", 20, encoding="hash"),
        Feature("hour", 30, bucketise=True),
    ),
    rows={"train": 8, "valid": 1, "test": 1},
    sources=("a.csv", "b.csv"),
    settings={"min_count": 2, "shares": [0.8, 0.1, 0.1]},
    hash_seed=7,
)


def test_file_round_trip_keeps_every_field(tmp_path):
    """A field lost on the way would be a transform applied differently when serving."""
    SCHEMA.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == SCHEMA
    assert [path.name for path in tmp_path.iterdir()] == ["schema.json"]


def test_the_file_is_json_that_other_tools_can_read(tmp_path):
    """Design §4: the dataset folder can be opened without slimtab."""
    SCHEMA.save(tmp_path / "schema.json")
    plain = json.loads((tmp_path / "schema.json").read_text())
    assert plain["features"][1]["pooling"] == "mean"
    assert plain["format_version"] == 1


def test_one_and_multi_hot_features_keep_their_order():
    """Columns are addressed by position further on."""
    assert [feature.name for feature in SCHEMA.one_hot] == ["user", "shop", "hour"]
    assert [feature.name for feature in SCHEMA.multi_hot] == ["tags"]


def test_full_bytes():
    """The denominator of every budget: 4 · n · dim, out-of-vocabulary rows counted in n."""
    assert fake_schema([10, 1000], multi_hot=[50]).full_bytes(16) == 4 * 16 * 1060


@pytest.mark.parametrize(
    "change",
    [
        {"numerics": (Numeric("price", "standard", 3.6, 0.25), Numeric("age"))},
        {"features": (*SCHEMA.features[1:], SCHEMA.features[0])},
        {"features": (dataclasses.replace(SCHEMA.features[0], num_ids=1001), *SCHEMA.features[1:])},
        {"hash_seed": 8},
        {"raw": RawFormat("table", label="click")},
    ],
)
def test_fingerprint_changes_with_what_a_model_depends_on(change):
    """It is what stops a model from being fed columns it was not trained on."""
    assert dataclasses.replace(SCHEMA, **change).fingerprint() != SCHEMA.fingerprint()


@pytest.mark.parametrize("change", [{"rows": {"train": 9}}, {"sources": ("c.csv",)}, {"settings": {}}])
def test_fingerprint_ignores_where_rows_came_from(change):
    """Moving or growing a file must not make a model unusable."""
    assert dataclasses.replace(SCHEMA, **change).fingerprint() == SCHEMA.fingerprint()


def test_a_column_used_twice_is_named():
    """Two columns of one name would read the same data, whatever was meant."""
    with pytest.raises(SlimtabError, match="'C1' appears twice"):
        Schema(RawFormat("table"), (Numeric("C1"),), (Feature("C1", 5),))


def test_a_missing_file_says_how_to_make_one(tmp_path):
    """The likeliest mistake of a first try: a wrong path."""
    with pytest.raises(SlimtabError, match="slimtab prep"):
        Schema.load(tmp_path / "schema.json")


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe\x00", b""])
def test_an_unreadable_file_is_one_line(tmp_path, text):
    """A half-copied folder, not a traceback."""
    (tmp_path / "schema.json").write_bytes(text)
    with pytest.raises(SlimtabError, match="cannot be read") as caught:
        Schema.load(tmp_path / "schema.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["raw", "numerics", "features", "rows", "hash_seed"])
def test_a_missing_part_is_damage(damage):
    """Reading on with a default would serve another model than was trained."""
    plain = SCHEMA.to_dict()
    del plain[damage]
    with pytest.raises(SlimtabError, match=f"damaged .*{damage}"):
        Schema.from_dict(plain)


def test_an_unknown_part_of_a_column_is_damage():
    """A newer writer's field that this reader does not honour."""
    plain = SCHEMA.to_dict()
    plain["features"][0]["weight"] = 3
    with pytest.raises(SlimtabError, match=r"damaged .*weight"):
        Schema.from_dict(plain)


@pytest.mark.parametrize("plain", [[], "text", 3, None])
def test_json_that_is_no_schema_at_all(tmp_path, plain):
    """schema.json is a common file name; some other tool's may lie there."""
    (tmp_path / "schema.json").write_text(json.dumps(plain))
    with pytest.raises(SlimtabError):
        Schema.load(tmp_path / "schema.json")


def test_another_format_version_is_refused():
    """Old folders are prepared again, never half understood."""
    with pytest.raises(SlimtabError, match="format version 99 is not 1"):
        Schema.from_dict({**SCHEMA.to_dict(), "format_version": 99})
