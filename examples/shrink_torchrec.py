"""Train a DLRM in plain TorchRec on Criteo-format rows, save it, and shrink what was saved.

    python examples/shrink_torchrec.py train.txt --rows 50000 --method rq --budget 8%

The first half knows nothing of slimtab: its ids are hashes of the tokens, its checkpoint is a state_dict.
"""

import argparse
import zlib
from itertools import islice
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("file", type=Path, help="tab-separated rows: label, 13 numbers, 26 tokens")
parser.add_argument("--rows", type=int, default=50_000, help="rows to read; the last fifth is for testing")
parser.add_argument("--ids", type=int, default=2000, help="ids of each feature")
parser.add_argument("--method", default="rq", help="see `slimtab shrink --help`")
parser.add_argument("--budget", default="8%", help="serving bytes: 8%% of the full tables, or a size")
parser.add_argument("--out", type=Path, default=Path("small"), help="folder to make")
args = parser.parse_args()

KEYS = [f"C{number}" for number in range(1, 27)]
BATCH = 512


def build() -> DLRM:
    """The model, untrained."""
    tables = [
        EmbeddingBagConfig(name=f"t_{k}", embedding_dim=16, num_embeddings=args.ids, feature_names=[k])
        for k in KEYS
    ]
    return DLRM(EmbeddingBagCollection(tables=tables), 13, [64, 16], [64, 1])


def read(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels [N], numbers [N, 13], ids [N, 26]."""
    with path.open(encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in islice(file, args.rows)]
    label = torch.tensor([float(row[0]) for row in rows])
    dense = torch.tensor([[max(float(cell or 0), 0.0) for cell in row[1:14]] for row in rows]).log1p()
    ids = torch.tensor([[zlib.crc32(cell.encode()) % args.ids for cell in row[14:40]] for row in rows])
    return label, dense, ids


def bags(ids: torch.Tensor) -> KeyedJaggedTensor:
    """Ids as TorchRec takes them, one in each bag."""
    return KeyedJaggedTensor(
        keys=KEYS, values=ids.t().flatten(), lengths=torch.ones(ids.numel(), dtype=torch.int64)
    )


# 1. Train and save, as always.
torch.manual_seed(0)
label, dense, ids = read(args.file)
split = len(label) * 4 // 5
model = build()
for bag in model.sparse_arch.embedding_bag_collection.embedding_bags.values():
    nn.init.normal_(bag.weight, 0.0, 0.01)
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
for some in torch.randperm(split).split(BATCH):
    logits = model(dense[some], bags(ids[some])).squeeze(1)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, label[some])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
checkpoint = args.out.with_suffix(".pt")
torch.save(model.state_dict(), checkpoint)


def auc(model: nn.Module) -> float:
    """Area under the ROC curve on the last fifth."""
    with torch.no_grad():
        return float(roc_auc_score(label[split:], model(dense[split:], bags(ids[split:])).squeeze(1)))


# 2. Shrink what was saved: without the rows, then in a fresh model.
import slimtab  # noqa: E402
from slimtab.errors import one_line_errors  # noqa: E402
from slimtab.shrinking.job import Job  # noqa: E402

one_line_errors()
figures = Job(checkpoint, args.out, args.method, args.budget).run()
small = slimtab.restore(build(), args.out)
share = figures["serve_bytes"] / figures["full_bytes"]
print(f"tables: {share:.2%} of the full ones   test AUC {auc(model):.4f} → {auc(small):.4f}")
