"""From a trained model to predictions on raw rows."""

import importlib
from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import :func:`~slimtab.serving.predictor.load` when it is asked for: other parts do without."""
    if name == "load":
        return importlib.import_module("slimtab.serving.predictor").load
    raise AttributeError(f"module 'slimtab.serving' has no attribute '{name}'")
