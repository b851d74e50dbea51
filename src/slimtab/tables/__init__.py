"""Embedding tables: the contract, the rows, and one file per method."""
