"""DeepCTR-Torch's DeepFM, trained when told to (see worker.py); run with the library's own interpreter.

Its training step is the inside of `fit`, which cannot be called alone, so `step` below does the same things
in the same order. The DataLoader around it is left out, in the peer's favour: it gathers a batch row by row.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import worker
import workload


def deepfm(sizes: list[int], decay: float, seed: int):
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
    columns += [DenseFeat(f"I{i + 1}", 1) for i in range(workload.DENSE)]
    model = DeepFM(
        columns,
        columns,
        dnn_hidden_units=worker.HIDDEN,
        l2_reg_linear=decay,
        l2_reg_embedding=decay,
        seed=seed,
    )
    model.compile("adam", "binary_crossentropy")
    return model


def main() -> None:
    parser = worker.arguments(__doc__)
    parser.add_argument("--decay", type=float, default=0.0, help="L2 on every row of every table")
    options = parser.parse_args()
    channel = worker.claim_stdout()
    import torch

    torch.set_num_threads(options.threads)
    model = deepfm(workload.sizes(options.ids), options.decay, options.seed).train()
    batches = []
    for ids, dense, label in zip(
        *workload.batches(options.ids, options.batches, seed=options.seed), strict=True
    ):
        # One float matrix, ids included, is what the library's fit makes of its inputs.
        matrix = torch.cat([torch.from_numpy(ids).float(), torch.from_numpy(dense)], dim=1)
        batches.append((matrix, torch.from_numpy(label)))

    def step(index: int) -> float:
        x, y = batches[index]
        predicted = model(x).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(predicted, y, reduction="sum")
        total = loss + model.get_regularization_loss() + model.aux_loss
        total.backward()
        model.optim.step()
        return loss.item() / len(y)

    variant = f", L2 {options.decay:g}" if options.decay else ""
    worker.serve(
        channel,
        f"deepctr-torch {version('deepctr-torch')}, dense Adam{variant}, torch {torch.__version__}",
        step,
        len(batches),
    )


if __name__ == "__main__":
    main()
