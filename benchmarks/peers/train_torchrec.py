"""torchrec's SimpleDeepFMNN on an unfused EmbeddingBagCollection, timed or trained (see peer.py).

torchrec's model is not quite the others': it has no first-order weights, it passes the numeric columns
through a small network to one more 16-wide field, and its deep part is a single layer. That layer is replaced
by the contenders' network, which torchrec's DeepFM module takes as an argument anyway.

An unfused collection is plain torch parameters with dense gradients, and torchrec leaves their optimizer to
the user: here the fused Adam of torch, the fastest that gives the same result as the other contenders' Adam.
`--decay` is Adam's own weight_decay on the tables: L2 as in the other libraries, without a pass of its own.
"""

import argparse
from importlib.metadata import version
from itertools import pairwise

from peer import Peer, Rows, main

import worker


def deepfm(sizes: list[int], dense: int, keys: list[str], hidden: list[int]):
    """SimpleDeepFMNN with the benchmark's deep part."""
    from torch import nn
    from torchrec.models.deepfm import SimpleDeepFMNN
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

    tables = [
        EmbeddingBagConfig(
            name=f"table_{key}", num_embeddings=size, embedding_dim=worker.DIM, feature_names=[key]
        )
        for key, size in zip(keys, sizes, strict=True)
    ]
    model = SimpleDeepFMNN(dense, EmbeddingBagCollection(tables), hidden[0], hidden[-1])
    widths = ((len(sizes) + 1) * worker.DIM, *hidden)
    layers = [
        layer
        for width_in, width_out in pairwise(widths)
        for layer in (nn.Linear(width_in, width_out), nn.ReLU())
    ]
    model.inter_arch.deep_fm.dense_module = nn.Sequential(*layers)
    return model


class TorchRec(Peer):
    """torchrec's SimpleDeepFMNN."""

    def __init__(self, sizes: list[int], dense: int, options: argparse.Namespace):
        import torch

        self._torch, self._keys = torch, [f"C{i + 1}" for i in range(len(sizes))]
        self.model = deepfm(sizes, dense, self._keys, options.hidden)
        self.tables = [name for name, _ in self.model.named_parameters() if ".embedding_bags." in name]
        parameters = dict(self.model.named_parameters())
        tables = [parameters.pop(name) for name in self.tables]
        groups = [{"params": tables, "weight_decay": options.decay}, {"params": list(parameters.values())}]
        self.optimizer = torch.optim.Adam(groups, lr=options.lr, fused=True)
        variant = f", L2 {options.decay:g}" if options.decay else ""
        self.label = (
            f"torchrec {version('torchrec')} unfused, dense fused Adam{variant}, torch {torch.__version__}"
        )

    def batch(self, rows: Rows) -> tuple:
        """Numeric columns, a KeyedJaggedTensor (by feature, then by row) and labels."""
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        tensor, torch = self._torch.from_numpy, self._torch
        sparse = KeyedJaggedTensor.from_lengths_sync(
            keys=self._keys,
            values=tensor(rows.ids).T.reshape(-1),
            lengths=torch.ones(rows.ids.size, dtype=torch.int32),
        )
        return tensor(rows.dense), sparse, tensor(rows.label)

    def step(self, batch: tuple) -> float:
        self.optimizer.zero_grad()
        loss = self._torch.nn.functional.binary_cross_entropy(self.predict(batch), batch[2])
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def predict(self, batch: tuple):
        dense, sparse, _ = batch
        return self.model(dense, sparse).squeeze(-1)  # the model ends in a sigmoid


if __name__ == "__main__":
    main(__doc__, TorchRec)
