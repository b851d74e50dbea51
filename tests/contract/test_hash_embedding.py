"""The contract, for hash embeddings."""

from slimtab.testing.contract import TableContract


class TestHashEmbedding(TableContract):
    method = "hash_embedding"


class TestHashEmbeddingMostlyComponents(TableContract):
    method = "hash_embedding"
    options = {"probes": 3, "share": 0.2}
