"""slimtab: make the embedding tables of click-through-rate models small, and see what it costs."""

__version__ = "0.1.0"
