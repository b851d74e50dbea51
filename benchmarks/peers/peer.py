"""What the peers' scripts share: a model with its training step, timed by a driver or trained to the end.

    train_fuxictr.py --ids 500000                      steps when told to (see ../worker.py)
    train_fuxictr.py --data ROWS --fit OUT --seed 1    trains on prepared rows (see ../rows.py) to the end and
                                                       writes what run.py reads

Runs under each peer's own interpreter: torch and NumPy are all it needs.
"""

from __future__ import annotations

import abc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import worker
import workload
from rows import Rows, read, shuffled

if TYPE_CHECKING:
    import torch

# As `slimtab train` has them, so that all stop by the same rule.
EPOCHS = 20
PATIENCE = 2
LR_DROP = 0.1


class Peer(abc.ABC):
    """A library's model, with the library's own training step.

    `label` says what runs, `tables` names the parameters whose number grows with the number of ids, `minmax`
    tells whether the library's own preparation brings numeric columns to [0, 1].
    """

    minmax = False
    label: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    tables: list[str]

    @abc.abstractmethod
    def batch(self, rows: Rows) -> Any:
        """A batch as the library wants it."""

    @abc.abstractmethod
    def step(self, batch: Any) -> float:
        """Train on a batch; its loss before the step."""

    @abc.abstractmethod
    def predict(self, batch: Any) -> torch.Tensor:
        """Probabilities [B] of a batch, in whatever mode the model is in."""


Build = Callable[[list[int], int, Any], Peer]  # sizes, numeric columns, arguments


def main(description: str, build: Build, arguments: Callable[[Any], None] = lambda parser: None) -> None:
    """Time or train the peer that `build` makes; `arguments` may add some of its own."""
    parser = worker.arguments(description)
    parser.add_argument("--lr", type=float, default=worker.LEARNING_RATE)
    parser.add_argument("--decay", type=float, default=0.0, help="L2 on every row of every table")
    parser.add_argument("--fit", type=Path, help="train on --data to the end and write into this folder")
    arguments(parser)
    options = parser.parse_args()
    channel = worker.claim_stdout()
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.fit is not None:
        fit(build, options)
        return
    sizes, stacked = workload.feed(options)
    peer = build(sizes, stacked.dense.shape[-1], options)
    peer.model.train()
    batches = [peer.batch(Rows(*batch)) for batch in zip(*stacked, strict=True)]
    worker.serve(channel, peer.label, lambda index: peer.step(batches[index]), len(batches))


def fit(build: Build, options: Any) -> None:
    """Train until validation logloss has not improved for more than PATIENCE epochs, score each split once.

    An epoch that brought nothing is taken back, and the learning rate drops. Written: `valid.npy`, `test.npy`
    (probabilities [N] float64), `tables.pt` (the best weights of the tables), `result.json`.
    """
    import torch

    from rows import columns

    peer = build(*columns(options.data), options)
    train, valid, test = (read(options.data, split) for split in ("train", "valid", "test"))
    if peer.minmax:
        low, high = train.dense.min(axis=0), train.dense.max(axis=0)
        for rows in (train, valid, test):
            rows.dense[:] = (rows.dense - low) / np.maximum(high - low, 1e-6)
    best, weights, bad, seconds, epoch = float("inf"), {}, 0, 0.0, 0
    while bad <= PATIENCE and epoch < EPOCHS:
        peer.model.train()
        started = time.perf_counter()
        for rows in shuffled(train, options.batch, 1000 * options.seed + epoch):
            peer.step(peer.batch(rows))
        seconds += time.perf_counter() - started
        epoch += 1
        loss = logloss(valid.label, predict(peer, valid, options.batch))
        print(f"epoch {epoch}: valid logloss {loss:.4f}", file=sys.stderr)
        if loss < best:
            best, bad = loss, 0
            weights = {name: value.clone() for name, value in peer.model.state_dict().items()}
        else:
            bad += 1
            peer.model.load_state_dict(weights)
            for group in peer.optimizer.param_groups:
                group["lr"] *= LR_DROP
    peer.model.load_state_dict(weights)
    options.fit.mkdir(parents=True, exist_ok=True)
    for split, rows in (("valid", valid), ("test", test)):
        np.save(options.fit / f"{split}.npy", predict(peer, rows, options.batch), allow_pickle=False)
    tables = {name: weights[name] for name in peer.tables}
    torch.save(tables, options.fit / "tables.pt")
    result = {
        "label": peer.label,
        "epochs": epoch,
        "rows_per_second": epoch * len(train.label) / seconds,
        "table_parameters": sum(value.numel() for value in tables.values()),
    }
    (options.fit / "result.json").write_text(json.dumps(result), encoding="utf-8")


def predict(peer: Peer, rows: Rows, batch: int) -> np.ndarray:
    """Probabilities [N] float64 of all rows, in order."""
    import torch

    peer.model.eval()
    with torch.no_grad():
        parts = [
            peer.predict(peer.batch(rows.take(slice(start, start + batch)))).double().numpy()
            for start in range(0, len(rows.label), batch)
        ]
    return np.concatenate(parts)


def logloss(label: np.ndarray, probability: np.ndarray) -> float:
    """Mean binary cross-entropy, in nats."""
    tiny = np.finfo(np.float64).eps
    probability = probability.clip(tiny, 1 - tiny)
    return float(-np.log(np.where(label > 0, probability, 1 - probability)).mean())
