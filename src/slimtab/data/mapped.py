"""The files of a split: Arrow IPC, memory-mapped, checked against the schema when they are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from slimtab.data.encode import shard_schema
from slimtab.errors import SlimtabError
from slimtab.schema import SPLITS, Schema


class Shard:
    """One file of a split.

    Attributes:
        path: the file.
        batch_rows: number of rows in each of its record batches.

    Raises:
        SlimtabError: when the file is damaged, or its columns are not those of the schema.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path = path
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            self.batch_rows = [self._file.get_batch(n).num_rows for n in range(self._file.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        found = self._file.schema
        for field in shard_schema(schema):
            place = found.get_field_index(field.name)
            if place < 0 or found.field(place).type != field.type:
                held = found.field(place).type if place >= 0 else "absent"
                raise SlimtabError(
                    f"{path}: column '{field.name}' is {held} where schema.json says {field.type}; "
                    "the file belongs to another dataset, prepare this one again"
                )

    def read(self, number: int) -> Any:
        """Return record batch ``number``, still in the mapped file.

        Raises:
            SlimtabError: when it is damaged.
        """
        try:
            columns = self._file.get_batch(number)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        for name, column in zip(columns.schema.names, columns.columns, strict=True):
            if column.null_count:
                raise SlimtabError(
                    f"{self.path}: column '{name}' has nulls, which prep never writes; prepare it again"
                )
        return columns

    def _damaged(self, error: Exception) -> SlimtabError:
        reason = str(error).splitlines()[0]
        return SlimtabError(f"{self.path} is damaged ({reason}); prepare the dataset again")


def open_split(folder: Path, split: str, schema: Schema) -> list[Shard]:
    """Open the shards ``part-*.arrow`` of a split, in order.

    Raises:
        SlimtabError: when there are none, when one is damaged or foreign, and when their rows are not as many
            as the schema says.
    """
    paths = sorted((folder / split).glob("part-*.arrow")) if split in SPLITS else []
    if not paths:
        present = [name for name in SPLITS if any((folder / name).glob("part-*.arrow"))]
        raise SlimtabError(f"no split '{split}' in {folder}; it has: {', '.join(present) or 'none'}")
    shards = [Shard(path, schema) for path in paths]
    rows, expected = sum(sum(shard.batch_rows) for shard in shards), schema.rows.get(split)
    if rows != expected:
        raise SlimtabError(
            f"{folder / split} holds {rows} rows and schema.json says {expected}; prepare the dataset again"
        )
    return shards
