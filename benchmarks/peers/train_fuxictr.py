"""A FuxiCTR DeepFM, trained when told to (see worker.py); run with FuxiCTR's own interpreter.

The wheel ships FuxiCTR's layers and its BaseModel but not the DeepFM of its model zoo, so that model is put
together here from those layers. The step is BaseModel.train_step: dense gradients for every table, gradient
clipping over all of them, torch's Adam.

FuxiCTR embeds numeric columns as well: its interaction sees 39 fields and its network 39 x 16 inputs.
`--numeric none` leaves them out, which is less work than any other contender does.
`--decay 1e-5` is how FuxiCTR's own Criteo recipes train; without it no contender decays anything.
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import worker
import workload


def feature_map(sizes: list[int], numeric: bool):
    """The schema FuxiCTR would have written for these columns."""
    from fuxictr.features import FeatureMap

    schema = FeatureMap("workload", tempfile.gettempdir())
    schema.labels = ["label"]
    schema.default_emb_dim = worker.DIM
    for column in range(workload.DENSE if numeric else 0):
        schema.features[f"I{column + 1}"] = {"source": "", "type": "numeric"}
    for column, size in enumerate(sizes):
        schema.features[f"C{column + 1}"] = {
            "source": "",
            "type": "categorical",
            "vocab_size": size,
            "padding_idx": 0,
        }
    schema.num_fields = schema.get_num_fields()
    return schema


def deepfm(schema, decay: float):
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
            self.mlp = MLP_Block(schema.sum_emb_out_dim(), list(worker.HIDDEN), "ReLU", output_dim=1)
            self.compile("adam", "binary_crossentropy", worker.LEARNING_RATE)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs):
            X = self.get_inputs(inputs)
            embedded = self.embedding_layer(X)
            logit = self.fm(X, embedded) + self.mlp(embedded.flatten(start_dim=1))
            return {"y_pred": self.output_activation(logit)}

    return DeepFM()


def main() -> None:
    parser = worker.arguments(__doc__)
    parser.add_argument("--numeric", choices=("embedded", "none"), default="embedded")
    parser.add_argument("--decay", type=float, default=0.0, help="L2 on every row of every table")
    options = parser.parse_args()
    channel = worker.claim_stdout()
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = deepfm(feature_map(workload.sizes(options.ids), options.numeric == "embedded"), options.decay)
    model.train()
    model._max_gradient_norm = 10.0  # what fit() sets by default before it calls train_step

    def columns(ids, dense, label) -> dict:
        """A batch as FuxiCTR's loader hands it over: one tensor per column."""
        batch = {f"C{i + 1}": torch.from_numpy(ids[:, i].copy()) for i in range(ids.shape[1])}
        if options.numeric == "embedded":
            batch |= {f"I{i + 1}": torch.from_numpy(dense[:, i].copy()) for i in range(dense.shape[1])}
        return batch | {"label": torch.from_numpy(label)}

    rows = workload.batches(options.ids, options.batches, seed=options.seed)
    batches = [columns(*batch) for batch in zip(*rows, strict=True)]

    def step(index: int) -> float:
        return model.train_step(batches[index]).item()

    variant = "" if options.numeric == "embedded" else ", no numerics"
    variant += f", L2 {options.decay:g}" if options.decay else ""
    worker.serve(
        channel,
        f"fuxictr {version('fuxictr')}, dense Adam{variant}, torch {torch.__version__}",
        step,
        len(batches),
    )


if __name__ == "__main__":
    main()
