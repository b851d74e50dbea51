"""slimtab: make the embedding tables of click-through-rate models small, and see what it costs."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "compress"]


def __getattr__(name: str) -> Any:
    """Import :func:`slimtab.dropin.compress` when it is asked for: it needs torch, and `--help` does not."""
    if name == "compress":
        return importlib.import_module("slimtab.dropin").compress
    raise AttributeError(f"module 'slimtab' has no attribute '{name}'")
