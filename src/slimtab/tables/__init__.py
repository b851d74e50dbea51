"""Embedding tables: the contract, the rows, and one file per method; `parts` is what methods are made of."""
