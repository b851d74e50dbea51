"""ONNX: a graph for ONNX Runtime, which needs neither torch nor slimtab's own code.

The graph names the tables as external data, and they lie beside it in the file that the run froze:
``tables.safetensors`` is bytes after a header, and ONNX asks for no more than a file and an offset. So an
export neither copies nor holds them.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slimtab.errors import SlimtabError
from slimtab.schema import Schema
from slimtab.serving.arrays import Arrays
from slimtab.serving.stored import spans

if TYPE_CHECKING:
    from slimtab.serving.program import Program

_FILE, _TABLES = "model.onnx", "tables.safetensors"
_MISSING = "the format onnx needs a package that is not installed ({}); run pip install 'slimtab[onnx]'"


def write(program: Program, frozen: Path, out: Path) -> None:
    """Translate the program.

    Raises:
        SlimtabError: when onnxscript is not installed, or the table's method uses what ONNX has no words for.
    """
    import torch

    try:
        import onnx_ir as ir
        import onnxscript  # noqa: F401 (torch asks for it, with a longer message)

        from slimtab.serving.formats import onnx_ops
    except ImportError as error:
        raise SlimtabError(_MISSING.format(error)) from error
    inputs, sizes = program.example()
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet(logging.getLogger("torch.onnx")):
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program,
                inputs,
                dynamo=True,
                verbose=False,
                dynamic_shapes=sizes,
                input_names=list(program.names()),
                output_names=["logit"],
                custom_translation_table=onnx_ops.TRANSLATIONS,
            )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        method = type(program.model.tables.table).__name__
        raise SlimtabError(
            f"{method} cannot be exported to ONNX ({' '.join(str(cause).split())[:200]}); "
            "choose another format"
        ) from error
    assert exported is not None
    model = exported.model
    shutil.copyfile(frozen / _TABLES, out / _TABLES)
    for name, span in spans(out / _TABLES).items():
        value = model.graph.initializers.get(f"model.tables.{name}")
        if value is not None and value.const_value is not None:
            old, nbytes = value.const_value, span.stop - span.start
            value.const_value = ir.ExternalTensor(
                _TABLES, span.start, nbytes, old.dtype, shape=old.shape, name=value.name, base_dir=out
            )
    ir.save(model, out / _FILE)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep back warnings that are nothing to act on, such as torchvision missing."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def read(folder: Path, card: Mapping[str, Any], schema: Schema) -> Callable[[Arrays], NDArray[np.float32]]:
    """Return the program as a function of arrays, run by ONNX Runtime.

    Raises:
        SlimtabError: when onnxruntime is not installed, or the file is missing or damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise SlimtabError(_MISSING.format(error)) from error
    options = onnxruntime.SessionOptions()
    # Its threads would go on turning between requests, on cores that answer others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(folder / _FILE, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever a damaged file makes of the runtime
        raise SlimtabError(
            f"{folder / _FILE} cannot be loaded ({' '.join(str(error).split())[:200]}); export the run again"
        ) from error
    # A translation leaves out what the logits do not depend on.
    names = [found.name for found in session.get_inputs()]

    def run(arrays: Arrays) -> NDArray[np.float32]:
        given = dict(zip(card["inputs"], arrays.inputs(), strict=True))
        logits: NDArray[np.float32] = session.run(None, {name: given[name] for name in names})[0]
        return logits

    return run
