"""Frozen folders of any method in a second: random weights, real encoder, one-hot and multi-hot features."""

import dataclasses
import json
import random
from pathlib import Path

import pyarrow as pa
import torch

from slimtab.collection import TableCollection
from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.models.base import build_model
from slimtab.schema import Schema
from slimtab.serving.freeze import freeze
from slimtab.sizes import Budget
from slimtab.tables.base import get_method, in_last_stage

DIM = 8
_COLUMNS = """
label: clicked
numeric: [age, price]
categorical: [user, site, day]
multi_hot: [tags, words]
"""


def make_dataset(folder: Path, ids: str = "vocab") -> Path:
    """A table with numbers, tokens and two multi-hot columns, one of them averaged."""
    draw = random.Random(0)
    lines = ["clicked,age,price,user,site,day,tags,words"]
    for _ in range(1500):
        tags = " ".join(f"t{draw.randrange(60)}" for _ in range(draw.randrange(4)))
        words = " ".join(f"w{draw.randrange(200)}" for _ in range(draw.randrange(1, 4)))
        lines.append(
            f"{draw.randrange(2)},{draw.choice(['', draw.randrange(90)])},{draw.gauss(0, 5):.2f},"
            f"u{draw.randrange(400)},s{draw.randrange(90)},{draw.randrange(7)},{tags},{words}"
        )
    folder.mkdir(parents=True)
    (folder / "raw.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "columns.yaml").write_text(_COLUMNS, encoding="utf-8")
    options = PrepOptions("table", columns=folder / "columns.yaml", numeric="standard", ids=ids, min_count=1)
    schema = prepare(folder / "raw.csv", folder / "data", options, progress=False)
    features = [dataclasses.replace(f, pooling="mean") if f.name == "words" else f for f in schema.features]
    dataclasses.replace(schema, features=tuple(features)).save(folder / "data" / "schema.json")
    return folder / "data"


def make_frozen(data: Path, method: str, out: Path, model: str = "deepfm", share: str = "25%") -> Path:
    """A model with random weights, frozen in its last stage."""
    torch.manual_seed(0)
    schema = Schema.load(data / "schema.json")
    features = sorted(schema.features, key=lambda feature: feature.multi_hot)
    full = schema.full_bytes(DIM)
    smallest = get_method(method).Config.smallest_bytes(features, DIM)
    nbytes = max(Budget.parse(share).resolve(full), smallest)
    tables = TableCollection.build(features, DIM, method, nbytes, init_std=0.3)
    in_last_stage(tables.table)
    options = {"bottom": [16], "top": [16]} if model == "dlrm" else {"mlp": [16]}
    built = build_model(model, tables, len(schema.numerics), options).eval()
    frozen = built.tables.freeze().eval()
    freeze(built, frozen, data, out, {"test": {"auc": 0.5}, "serve_bytes": frozen.table.serve_bytes()})
    return out


def raw_rows(data: Path) -> pa.Table:
    """The rows the dataset was made of, as a caller would hold them."""
    import polars as pl

    frame = pl.read_csv(data.parent / "raw.csv", schema_overrides={"day": pl.String})
    return frame.to_arrow()


def edit_card(folder: Path, **values) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | values))
