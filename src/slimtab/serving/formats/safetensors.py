"""Weights alone, as a run's ``frozen/`` has them; slimtab itself is the program."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slimtab.schema import Schema
from slimtab.serving.arrays import Arrays

if TYPE_CHECKING:
    from slimtab.serving.program import Program

FILES = ("tables.safetensors", "dense.safetensors")


def write(program: Program, frozen: Path, out: Path) -> None:
    """Copy the two files."""
    for name in FILES:
        shutil.copyfile(frozen / name, out / name)


def read(folder: Path, card: Mapping[str, Any], schema: Schema) -> Callable[[Arrays], NDArray[np.float32]]:
    """Return the model as a function of arrays.

    Raises:
        SlimtabError: when a file is missing or damaged.
    """
    import torch

    from slimtab.serving.freeze import load_model
    from slimtab.serving.program import Program

    program = Program(load_model(folder, card, schema))

    def run(arrays: Arrays) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = program(*map(torch.from_numpy, arrays.inputs())).numpy()
        return logits

    return run
