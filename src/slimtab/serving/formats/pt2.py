"""A program of torch.export with its weights: one file that torch alone runs, in eager mode or compiled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slimtab.errors import SlimtabError
from slimtab.schema import Schema
from slimtab.serving.arrays import Arrays
from slimtab.serving.stored import Span, spans

if TYPE_CHECKING:
    from slimtab.serving.program import Program

_FILE = "model.pt2"
_CHUNK = 1 << 22  # bytes copied at a time


def write(program: Program, frozen: Path, out: Path) -> None:
    """Trace the program and save it.

    torch.export.save would hold all tables in memory twice. So it saves a program whose tables are empty,
    and they are copied into the archive from their file.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    exported = program.trace()
    tables = {f"model.tables.{name}": span for name, span in spans(frozen / "tables.safetensors").items()}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for name in tables:
            exported.state_dict[name] = mode.from_tensor(exported.state_dict[name])
    hollow = out / "hollow.pt2"
    torch.export.save(exported, hollow)
    _fill(hollow, out / _FILE, frozen / "tables.safetensors", tables)
    hollow.unlink()


def _fill(hollow: Path, path: Path, source: Path, tables: Mapping[str, Span]) -> None:
    """Copy an archive, with the bytes of ``source`` for the weights that are empty in it."""
    with zipfile.ZipFile(hollow) as old, zipfile.ZipFile(path, "w") as new, source.open("rb") as file:
        (listing,) = (name for name in old.namelist() if name.endswith("_weights_config.json"))
        weights = json.loads(old.read(listing))
        for number, name in enumerate(tables):  # empty ones may have been taken for one and the same
            weights["config"][name]["path_name"] = f"table_{number}"
        for name in old.namelist():
            new.writestr(name, json.dumps(weights) if name == listing else old.read(name))
        for number, span in enumerate(tables.values()):
            place = f"{listing.rpartition('/')[0]}/table_{number}"
            with new.open(place, "w", force_zip64=True) as entry:
                file.seek(span.start)
                for begin in range(span.start, span.stop, _CHUNK):
                    entry.write(file.read(min(_CHUNK, span.stop - begin)))


def read(folder: Path, card: Mapping[str, Any], schema: Schema) -> Callable[[Arrays], NDArray[np.float32]]:
    """Return the program as a function of arrays.

    Raises:
        SlimtabError: when the file is missing or damaged.
    """
    import torch

    try:
        program = torch.export.load(folder / _FILE).module()
    except Exception as error:  # whatever a damaged archive makes of torch
        raise SlimtabError(
            f"{folder / _FILE} cannot be loaded ({' '.join(str(error).split())[:200]}); export the run again"
        ) from error

    def run(arrays: Arrays) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = program(*map(torch.from_numpy, arrays.inputs())).numpy()
        return logits

    return run
