"""Codes that are fitted to trained tables and never train: what `slimtab shrink` makes and serving reads."""
