"""Which table serves which feature of a dataset: by name, or as the user says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from slimtab.errors import SlimtabError, nearest
from slimtab.schema import Schema


def match_features(tables: Mapping[str, Tensor], schema: Schema, named: Mapping[str, str]) -> dict[str, str]:
    """Return the feature that each table serves.

    A table ``embedding_bags.t_C1`` serves the feature ``C1``: its last word, without the ``t_`` that
    torchrec's examples put before it.

    Args:
        tables: by name.
        schema: of the dataset.
        named: features by table, where names do not agree.

    Raises:
        SlimtabError: when a table or a feature stays alone, or has another number of ids.
    """
    features = {feature.name: feature for feature in schema.features}
    for table, feature in named.items():
        if table not in tables:
            raise SlimtabError(f"--map names table '{table}', which is none{nearest(table, tables)}")
        if feature not in features:
            raise SlimtabError(f"--map names feature '{feature}', which is none{nearest(feature, features)}")
    found = {}
    for table in tables:
        word = table.rpartition(".")[2]
        name = named.get(table, word if word in features else word.removeprefix("t_"))
        if name not in features:
            raise SlimtabError(
                f"table '{table}' has no feature of that name in the dataset, which has "
                f"{', '.join(features)}; say which it serves with --map {table}=FEATURE"
            )
        if len(tables[table]) != features[name].num_ids:
            raise SlimtabError(
                f"table '{table}' has {len(tables[table])} rows and feature '{name}' "
                f"{features[name].num_ids} ids; give the dataset it was trained on, or another feature with "
                f"--map {table}=FEATURE"
            )
        found[table] = name
    return found


def counts_of(matched: Mapping[str, str], counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return how often ids are read, by table.

    Raises:
        SlimtabError: when a feature's ids are hashes, which are not counted.
    """
    for feature in matched.values():
        if feature not in counts:
            raise SlimtabError(f"feature '{feature}' has hashed ids, which are not counted; see prep --ids")
    return {table: counts[feature] for table, feature in matched.items()}
