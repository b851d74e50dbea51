"""DeepCTR-Torch's DeepFM, timed or trained (see peer.py); run with the library's own interpreter.

Its training step is the inside of `fit`, which cannot be called alone, so `step` below does the same things
in the same order. The DataLoader around it is left out, in the peer's favour: it gathers a batch row by row.
The loss is a sum over the batch while the L2 term is not, so that its decay weighs a batch's rows less.
"""

import argparse
import sys
from importlib.metadata import version
from types import ModuleType

from peer import Peer, Rows, main

import worker


def deepfm(sizes: list[int], dense: int, options: argparse.Namespace):
    """The library's DeepFM with its own defaults, except for the decay (its own default is 1e-5)."""
    # On import the library asks the package index for its newest version, through `requests`, which its
    # metadata forgets to name. An empty stand-in mends the import and keeps the benchmark offline.
    sys.modules["requests"] = ModuleType("requests")
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [
        SparseFeat(f"C{i + 1}", vocabulary_size=size, embedding_dim=worker.DIM)
        for i, size in enumerate(sizes)
    ]
    columns += [DenseFeat(f"I{i + 1}", 1) for i in range(dense)]
    model = DeepFM(
        columns,
        columns,
        dnn_hidden_units=tuple(options.hidden),
        l2_reg_linear=options.decay,
        l2_reg_embedding=options.decay,
        seed=options.seed,
    )
    model.compile("adam", "binary_crossentropy")
    for group in model.optim.param_groups:
        group["lr"] = options.lr  # compile takes no learning rate
    return model


class DeepCTR(Peer):
    """DeepCTR-Torch's DeepFM."""

    def __init__(self, sizes: list[int], dense: int, options: argparse.Namespace):
        import torch

        self._torch = torch
        self.model = deepfm(sizes, dense, options)
        self.optimizer = self.model.optim
        self.tables = [
            f"{name}.weight"
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Embedding)
        ]
        variant = f", L2 {options.decay:g}" if options.decay else ""
        self.label = (
            f"deepctr-torch {version('deepctr-torch')}, dense Adam{variant}, torch {torch.__version__}"
        )

    def batch(self, rows: Rows) -> tuple:
        """One float matrix, ids included, is what the library's fit makes of its inputs."""
        tensor = self._torch.from_numpy
        matrix = self._torch.cat([tensor(rows.ids).float(), tensor(rows.dense)], dim=1)
        return matrix, tensor(rows.label)

    def step(self, batch: tuple) -> float:
        x, y = batch
        model = self.model
        predicted = model(x).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(predicted, y, reduction="sum")
        total = loss + model.get_regularization_loss() + model.aux_loss
        total.backward()
        model.optim.step()
        return loss.item() / len(y)

    def predict(self, batch: tuple):
        return self.model(batch[0]).squeeze(-1)


if __name__ == "__main__":
    main(__doc__, DeepCTR)
