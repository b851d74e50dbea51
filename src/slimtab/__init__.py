"""slimtab: make the embedding tables of click-through-rate models small, and see what it costs."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "compress", "load_shrunk", "restore", "shrink"]

_HOMES = {
    "compress": "slimtab.dropin",
    "load_shrunk": "slimtab.shrinking.artefact",
    "restore": "slimtab.shrinking.modules",
    "shrink": "slimtab.shrinking.shrink",
}


def __getattr__(name: str) -> Any:
    """Import a function when it is asked for: these need torch, and `--help` does not."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'slimtab' has no attribute '{name}'")
