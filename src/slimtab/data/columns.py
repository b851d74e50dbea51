"""Which columns each kind of raw file has, as a schema whose transforms and ids are still to be fitted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from slimtab.data.options import PrepOptions
from slimtab.errors import SlimtabError, nearest
from slimtab.schema import Feature, Numeric, RawFormat, Schema

CRITEO_NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CRITEO_TOKENS = tuple(f"C{i}" for i in range(1, 27))
AVAZU_TOKENS = (
    *("C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{i}" for i in range(14, 22)),
)
# The raw `hour` (YYMMDDHH) never repeats, so it becomes the hour of the day and the day of the week.
AVAZU_DERIVED = ("hour", "weekday")


def draft_schema(options: PrepOptions) -> Schema:
    """Return the columns that ``options`` describe, with ``num_ids=0`` and transforms not yet fitted.

    Raises:
        SlimtabError: when the column description is wrong.
    """
    numbers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    if options.kind == "criteo":
        raw, numbers, tokens = RawFormat("criteo", separator="\t"), CRITEO_NUMBERS, CRITEO_TOKENS
    elif options.kind == "avazu":
        raw, tokens = RawFormat("avazu", label="click"), (*AVAZU_DERIVED, *AVAZU_TOKENS)
    elif options.kind == "sports":
        raw, tokens, lists = RawFormat("sports"), ("user", "item"), ("categories",)
    else:
        described = describe_columns(options.columns)
        numbers, tokens, lists = described.numeric, described.categorical, described.multi_hot
        raw = RawFormat("table", described.label, described.separator, described.list_separator)
    features = [Feature(name, 0, encoding=options.ids) for name in tokens]
    if options.numeric == "bucket":
        features = [Feature(name, 0, encoding=options.ids, bucketise=True) for name in numbers] + features
        numerics: tuple[Numeric, ...] = ()
    else:
        numerics = tuple(Numeric(name, options.numeric) for name in numbers)
    # An item's categories describe it together, whatever their number: hence the mean.
    pooling: Any = "mean" if options.kind == "sports" else "sum"
    features += [Feature(name, 0, encoding=options.ids, multi_hot=True, pooling=pooling) for name in lists]
    return Schema(
        raw,
        numerics,
        tuple(features),
        hash_seed=options.seed if options.ids == "hash" else 0,
        settings=options.settings(),
    )


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """A column description: the role of each column of a CSV, TSV or Parquet file.

    Attributes:
        label: column with 0 or 1, or false or true.
        numeric: columns of numbers.
        categorical: columns with one token per row.
        multi_hot: columns with any number of tokens per row.
        drop: columns to leave out.
        separator: field separator of text files; ``.tsv`` files need none.
        list_separator: what stands between the tokens of a multi-hot cell in text files.
    """

    label: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    multi_hot: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    separator: str = ","
    list_separator: str = " "


def describe_columns(path: Path | None) -> TableColumns:
    """Read a column description from YAML.

    Raises:
        SlimtabError: when the file is missing, or has an unknown key or a value of the wrong kind.
    """
    if path is None:
        raise SlimtabError("a table needs a column description: --columns FILE.yaml")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SlimtabError(
            f"column description {path} cannot be read: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(found, dict):
        raise SlimtabError(f"column description {path} must be a mapping with label, numeric, categorical, …")
    known = {field.name: field for field in dataclasses.fields(TableColumns)}
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key not in known:
            raise SlimtabError(f"{path}: unknown key '{key}'{nearest(str(key), known)}")
        is_list = known[key].type != "str"
        if is_list and isinstance(value, list) and all(isinstance(item, str) for item in value):
            values[key] = tuple(value)
        elif not is_list and isinstance(value, str) and value:
            values[key] = value
        else:
            raise SlimtabError(f"{path}: '{key}' must be {'a list of column names' if is_list else 'a text'}")
    if "label" not in values:
        raise SlimtabError(f"{path}: 'label' is missing; name the column that holds 0 or 1")
    columns = TableColumns(**values)
    if len(columns.separator) != 1:
        raise SlimtabError(f"{path}: separator '{columns.separator}' must be a single character")
    _check_roles(path, columns)
    return columns


def _check_roles(path: Path, columns: TableColumns) -> None:
    used = (columns.label, *columns.numeric, *columns.categorical, *columns.multi_hot, *columns.drop)
    for name in used:
        if used.count(name) > 1:
            raise SlimtabError(f"{path}: column '{name}' has two roles; give it one")
        if "/" in name or "\0" in name:
            raise SlimtabError(f"{path}: column '{name}' cannot name a file; rename it in the raw data")
    if len(used) == 1 + len(columns.drop):
        raise SlimtabError(
            f"{path}: no numeric, categorical or multi_hot columns; a model needs at least one"
        )
