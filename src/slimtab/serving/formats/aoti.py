"""A package of AOTInductor: the program compiled to machine code, with its tensors beside it.

The code reads the tables where they are mapped from their file. So a package compiles without holding them,
and processes of one machine share them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slimtab.errors import SlimtabError
from slimtab.schema import Schema
from slimtab.serving.arrays import Arrays

if TYPE_CHECKING:
    from slimtab.serving.program import Program

_FILE, _TABLES, _OTHERS = "model.aoti.pt2", "tables.safetensors", "dense.safetensors"
_OF_TABLES = "model.tables."  # how a program calls what the file of tables holds
_LARGE = 1 << 20  # bytes
_PLACES = {"aot_inductor.package_constants_in_so": False}


def write(program: Program, frozen: Path, out: Path) -> None:
    """Compile the program, which takes most of a minute.

    Raises:
        SlimtabError: when there is no C++ compiler, or it fails.
    """
    import torch

    from slimtab.training.checkpoint import write_tensors

    exported = program.trace()
    stored = {_OF_TABLES + name for name in program.model.tables.state_dict()}
    # The compiler would hold constants twice, and of all but the smallest it needs the shapes alone.
    shapes = next(node.meta["val"].fake_mode for node in exported.graph.nodes if node.op == "placeholder")
    for name in stored:
        if exported.state_dict[name].nbytes > _LARGE:
            table = exported.state_dict[name]
            exported.state_dict[name] = shapes.from_tensor(table, static_shapes=True)
    try:
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(out / _FILE), inductor_configs=_PLACES
        )
    except Exception as error:  # whatever the compiler, or the way to it, makes of it
        raise SlimtabError(
            f"AOTInductor cannot compile this model ({' '.join(str(error).split())[:200]}); "
            "it needs a C++ compiler such as g++, the other formats do not"
        ) from error
    shutil.copyfile(frozen / _TABLES, out / _TABLES)
    tensors = {**exported.state_dict, **exported.constants}
    write_tensors(out / _OTHERS, {name: tensors[name] for name in tensors.keys() - stored}, {})


def read(folder: Path, card: Mapping[str, Any], schema: Schema) -> Callable[[Arrays], NDArray[np.float32]]:
    """Return the program as a function of arrays.

    Raises:
        SlimtabError: when a file is missing or damaged, or the code is not for this machine.
    """
    import torch

    from slimtab.training.checkpoint import read_tensors

    tables, _ = read_tensors(folder / _TABLES)
    tensors, _ = read_tensors(folder / _OTHERS)
    tensors |= {_OF_TABLES + name: value for name, value in tables.items()}
    try:
        loader = torch._inductor.aoti_load_package(str(folder / _FILE)).loader
        needed = set(loader.get_constant_fqns())
        used = {name: tensors[name] for name in needed}
        loader.load_constants(used, False, True, True)  # all of them, and they stay ours
    except Exception as error:  # whatever a damaged package makes of the loader
        raise SlimtabError(
            f"{folder / _FILE} cannot be loaded ({' '.join(str(error).split())[:200]}); export the run again"
        ) from error

    def run(arrays: Arrays, used: dict[str, torch.Tensor] = used) -> NDArray[np.float32]:
        inputs = [torch.from_numpy(array) for array in arrays.inputs()]
        logits: NDArray[np.float32] = loader.boxed_run(inputs)[0].numpy()
        return logits

    return run
