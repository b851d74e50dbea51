"""torchrec's SimpleDeepFMNN on an unfused EmbeddingBagCollection, trained when told to (see worker.py).

torchrec's model is not quite the others': it has no first-order weights, it passes the 13 numeric columns
through a small network to one more 16-wide field, and its deep part is a single layer. That layer is replaced
by the 400 x 3 network, which torchrec's DeepFM module takes as an argument anyway.

An unfused collection is plain torch parameters with dense gradients, and torchrec leaves their optimizer to
the user: here the fused Adam of torch, the fastest that gives the same result as the other contenders' Adam.
"""

import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import worker
import workload


def deepfm(sizes: list[int], keys: list[str]):
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
    model = SimpleDeepFMNN(
        workload.DENSE, EmbeddingBagCollection(tables), worker.HIDDEN[0], worker.HIDDEN[-1]
    )
    widths = ((len(sizes) + 1) * worker.DIM, *worker.HIDDEN)
    layers = [
        layer
        for width_in, width_out in pairwise(widths)
        for layer in (nn.Linear(width_in, width_out), nn.ReLU())
    ]
    model.inter_arch.deep_fm.dense_module = nn.Sequential(*layers)
    return model


def main() -> None:
    options = worker.arguments(__doc__).parse_args()
    channel = worker.claim_stdout()
    import torch
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    keys = [f"C{i + 1}" for i in range(workload.FEATURES)]
    model = deepfm(workload.sizes(options.ids), keys).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=worker.LEARNING_RATE, fused=True)
    lengths = torch.ones(workload.FEATURES * workload.BATCH, dtype=torch.int32)
    batches = []
    for ids, dense, label in zip(
        *workload.batches(options.ids, options.batches, seed=options.seed), strict=True
    ):
        values = torch.from_numpy(ids).T.reshape(-1)  # by feature, then by row
        sparse = KeyedJaggedTensor.from_lengths_sync(keys=keys, values=values, lengths=lengths)
        batches.append((torch.from_numpy(dense), sparse, torch.from_numpy(label)))

    def step(index: int) -> float:
        dense, sparse, label = batches[index]
        optimizer.zero_grad()
        predicted = model(dense, sparse).squeeze(-1)  # the model ends in a sigmoid
        loss = torch.nn.functional.binary_cross_entropy(predicted, label)
        loss.backward()
        optimizer.step()
        return loss.item()

    worker.serve(
        channel,
        f"torchrec {version('torchrec')} unfused, dense fused Adam, torch {torch.__version__}",
        step,
        len(batches),
    )


if __name__ == "__main__":
    main()
