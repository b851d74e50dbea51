"""The floor: DeepFM's network with no tables, fed embeddings made beforehand (see worker.py).

No table can make a training step faster than this one. The embeddings ask for gradients, because a step with
tables has to compute them too; nothing is done with them here.
"""

import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import worker
import workload


def network():
    """DeepFM above its tables: (embedded [B, F, D], first [B, F], dense [B, I]) -> logit [B]."""
    import torch
    from torch import nn

    class DeepFMNetwork(nn.Module):
        def __init__(self):
            super().__init__()
            widths = (workload.FEATURES * worker.DIM + workload.DENSE, *worker.HIDDEN)
            layers = []
            for width_in, width_out in pairwise(widths):
                layers += [nn.Linear(width_in, width_out), nn.ReLU()]
            self.deep = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
            self.linear = nn.Linear(workload.DENSE, 1)

        def forward(self, embedded, first, dense):
            pairs = embedded.sum(1).square() - embedded.square().sum(1)  # [B, D]: each pair of fields, twice
            deep = self.deep(torch.cat([embedded.flatten(1), dense], dim=1))
            linear = self.linear(dense) + first.sum(1, keepdim=True)
            return (deep + linear).squeeze(1) + 0.5 * pairs.sum(1)

    return DeepFMNetwork()


def main() -> None:
    options = worker.arguments(__doc__).parse_args()
    channel = worker.claim_stdout()
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = network().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=worker.LEARNING_RATE, fused=True)
    # Ids play no part here, and a batch of embeddings is 26 times the bytes of one of numerics: 8 will do.
    count = min(options.batches, 8)
    _, dense, label = workload.batches(options.ids, count, seed=options.seed)
    dense, label = torch.from_numpy(dense), torch.from_numpy(label)
    embedded = 0.01 * torch.randn(count, workload.BATCH, workload.FEATURES, worker.DIM)
    first = 0.01 * torch.randn(count, workload.BATCH, workload.FEATURES)
    leaves = [(e.requires_grad_(), f.requires_grad_()) for e, f in zip(embedded, first, strict=True)]

    def step(index: int) -> float:
        rows, weights = leaves[index]
        optimizer.zero_grad()
        rows.grad = weights.grad = None
        logit = model(rows, weights, dense[index])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label[index])
        loss.backward()
        optimizer.step()
        return loss.item()

    worker.serve(channel, f"network alone, fused Adam, torch {torch.__version__}", step, count)


if __name__ == "__main__":
    main()
