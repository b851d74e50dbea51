"""A FuxiCTR DeepFM, timed or trained (see peer.py); run with FuxiCTR's own interpreter.

The wheel ships FuxiCTR's layers and its BaseModel but not the DeepFM of its model zoo, so that model is put
together here from those layers. The step is BaseModel.train_step: dense gradients for every table, gradient
clipping over all of them, torch's Adam.

FuxiCTR embeds numeric columns as well: its interaction sees 39 fields and its network 39 x 16 inputs.
`--numeric none` leaves them out, which is less work than any other contender does.
`--decay 1e-5` is how FuxiCTR's own Criteo recipes train; without it no contender decays anything.
"""

import argparse
import tempfile
from importlib.metadata import version

from peer import Peer, Rows, main

import worker


def feature_map(sizes: list[int], dense: int):
    """The schema FuxiCTR would have written for these columns."""
    from fuxictr.features import FeatureMap

    schema = FeatureMap("workload", tempfile.gettempdir())
    schema.labels = ["label"]
    schema.default_emb_dim = worker.DIM
    for column in range(dense):
        schema.features[f"I{column + 1}"] = {"source": "", "type": "numeric"}
    for column, size in enumerate(sizes):
        # No padding_idx: id 0 is padding in FuxiCTR's files, here it is that of rare tokens, and is trained.
        schema.features[f"C{column + 1}"] = {"source": "", "type": "categorical", "vocab_size": size}
    schema.num_fields = schema.get_num_fields()
    return schema


def deepfm(schema, hidden: list[int], lr: float, decay: float):
    """DeepFM from FuxiCTR's parts: its factorisation machine plus its MLP over the same embeddings."""
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    class DeepFM(BaseModel):
        def __init__(self):
            super().__init__(
                schema,
                model_root=tempfile.gettempdir(),
                metrics=["AUC"],
                verbose=0,
                embedding_regularizer=decay or None,
            )
            self.embedding_layer = FeatureEmbedding(schema, worker.DIM)
            self.fm = FactorizationMachine(schema)
            self.mlp = MLP_Block(schema.sum_emb_out_dim(), hidden, "ReLU", output_dim=1)
            self.compile("adam", "binary_crossentropy", lr)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs):
            X = self.get_inputs(inputs)
            embedded = self.embedding_layer(X)
            logit = self.fm(X, embedded) + self.mlp(embedded.flatten(start_dim=1))
            return {"y_pred": self.output_activation(logit)}

    return DeepFM()


class FuxiCTR(Peer):
    """FuxiCTR's DeepFM."""

    minmax = True  # a wide numeric column times its embedding drowns the products of all the others

    def __init__(self, sizes: list[int], dense: int, options: argparse.Namespace):
        import torch

        self._torch, self._numeric = torch, options.numeric == "embedded"
        schema = feature_map(sizes, dense if self._numeric else 0)
        self.model = deepfm(schema, list(options.hidden), options.lr, options.decay)
        self.model._max_gradient_norm = 10.0  # what fit() sets by default before it calls train_step
        self.optimizer = self.model.optimizer
        self.tables = [
            f"{name}.weight"
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Embedding)
        ]
        variant = "" if self._numeric else ", no numerics"
        variant += f", L2 {options.decay:g}" if options.decay else ""
        self.label = f"fuxictr {version('fuxictr')}, dense Adam{variant}, torch {torch.__version__}"

    def batch(self, rows: Rows) -> dict:
        """One tensor per column, as FuxiCTR's loader hands them over."""
        tensor = self._torch.from_numpy
        columns = {f"C{i + 1}": tensor(rows.ids[:, i].copy()) for i in range(rows.ids.shape[1])}
        if self._numeric:
            columns |= {f"I{i + 1}": tensor(rows.dense[:, i].copy()) for i in range(rows.dense.shape[1])}
        return columns | {"label": tensor(rows.label)}

    def step(self, batch: dict) -> float:
        return self.model.train_step(batch).item()

    def predict(self, batch: dict):
        return self.model(batch)["y_pred"].squeeze(-1)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--numeric", choices=("embedded", "none"), default="embedded")


if __name__ == "__main__":
    main(__doc__, FuxiCTR, arguments)
