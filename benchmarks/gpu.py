"""Training speed on a GPU: slimtab against plain TorchRec and the network alone, in turns in one process.

    python benchmarks/gpu.py                          3.6 M ids, batches of 4,096, 16,384 and 65,536 rows
    python benchmarks/gpu.py --device cpu --rounds 1  the same on processors, to see that it runs

Batches lie in the memory of the host; each contender brings them over as its users would: slimtab with its
loader's thread, TorchRec with its ``TrainPipelineSparseDist``. Every contender trains the same DeepFM. What
TorchRec trains are an ``EmbeddingBagCollection`` under ``DistributedModelParallel`` in a world of one, with
row-wise Adagrad fused by fbgemm.
"""

import argparse
import contextlib
import json
import time
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.streamable import Pipelineable

import plain_torchrec
import worker
import workload
from slimtab.batch import Batch
from slimtab.collection import TableCollection
from slimtab.config import OptimizerSettings
from slimtab.data.loader import ahead
from slimtab.models.base import build_model
from slimtab.schema import Feature
from slimtab.tables.base import Clock
from slimtab.training.device import repeatable as kept_alike
from slimtab.training.engine.base import Engine
from slimtab.training.optimizers import Optimizers, fused_rows

STEPS_PER_EPOCH = 1000


def brought(batches, engine):
    """Batches where ``engine`` trains, as slimtab's loader brings them there."""
    return batches if engine.place is None else ahead(iter(batches), engine.place)


class Slimtab:
    """Steps as slimtab's trainer takes them."""

    def __init__(self, features, method, budget, device, rows="rowwise_adamax", repeatable=True):
        settings = OptimizerSettings(rows=rows, rows_lr=worker.LEARNING_RATE, lr=worker.LEARNING_RATE)
        tables = TableCollection.build(
            features, worker.DIM, method, budget, make_rows=fused_rows(settings, STEPS_PER_EPOCH)
        )
        self.engine = Engine(str(device))
        self.model = build_model("deepfm", tables, workload.DENSE, {"mlp": worker.HIDDEN}).to(device)
        self.optimizers = Optimizers(self.model, settings, STEPS_PER_EPOCH)
        self.steps = 0
        self.repeatable = repeatable

    def train(self, batches):
        with kept_alike(self.engine.device) if self.repeatable else contextlib.nullcontext():
            self._train(batches)

    def _train(self, batches):
        for batch in brought(batches, self.engine):
            self.model.tables.table.on_step(Clock(self.steps, STEPS_PER_EPOCH, 10 * STEPS_PER_EPOCH))
            self.optimizers.zero_grad()
            self.engine.collect(self.model, batch, lambda _: None)
            self.optimizers.step()
            self.steps += 1


class Network:
    """The network alone, over embeddings that lie on the device: the floor."""

    def __init__(self, features, device, batch):
        options = {"mlp": worker.HIDDEN}
        self.model = plain_torchrec.network(features, worker.DIM, workload.DENSE, options).to(device)
        self.engine = Engine(str(device))
        self.vectors = (0.01 * torch.randn(batch, len(features), worker.DIM, device=device)).requires_grad_()
        self.dense = torch.optim.AdamW(self.model.parameters(), lr=worker.LEARNING_RATE, fused=True)

    def train(self, batches):
        for batch in brought(batches, self.engine):
            self.dense.zero_grad()
            self.vectors.grad = None
            loss = binary_cross_entropy_with_logits(
                self.model.interact(batch.dense, self.vectors), batch.label
            )
            loss.backward()
            self.dense.step()


@dataclass
class Pipelined(Pipelineable):
    """A batch as TorchRec's pipelines want it."""

    dense: torch.Tensor
    ids: object
    label: torch.Tensor

    def to(self, device, non_blocking=False):
        return Pipelined(
            *(x.to(device, non_blocking=non_blocking) for x in (self.dense, self.ids, self.label))
        )

    def record_stream(self, stream):
        for part in (self.dense, self.ids, self.label):
            part.record_stream(stream)

    def pin_memory(self):
        return Pipelined(self.dense.pin_memory(), self.ids.pin_memory(), self.label.pin_memory())


class Bags(plain_torchrec.Bags):
    """The same, as TorchRec's pipelines want it: a batch in, its loss out."""

    def forward(self, batch):
        logit = super().forward(batch.dense, batch.ids)
        return binary_cross_entropy_with_logits(logit, batch.label), logit.detach()


class Torchrec:
    """Steps as torchrec's users take them."""

    def __init__(self, features, device):
        model = Bags(features, worker.DIM, workload.DENSE, {"mlp": worker.HIDDEN})
        rates = worker.LEARNING_RATE, worker.LEARNING_RATE
        self.model, optimizer = plain_torchrec.parallel(model, features, *rates, device)
        self.pipeline = TrainPipelineSparseDist(self.model, optimizer, device)
        self.device = device

    def train(self, batches):
        made = (Pipelined(batch.dense, batch.kjt(), batch.label) for batch in batches)
        if self.device.type == "cuda":
            made = ahead(made, Pipelined.pin_memory)
        with contextlib.suppress(StopIteration):
            while True:
                self.pipeline.progress(made)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=3_600_000)
    parser.add_argument("--batch", type=int, nargs="+", default=[4096, 16384, 65536])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=32, help="steps of a contender in each round")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--methods", nargs="+", default=["unified:10%", "hash:10%", "qr:25%", "int8:30%"])
    options = parser.parse_args()
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device(options.device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1
    )
    print(f"# torch {torch.__version__}", torch.cuda.get_device_name() if device.type == "cuda" else "cpu")
    features = [Feature(f"C{i + 1}", size) for i, size in enumerate(workload.sizes(options.ids))]
    contenders = {
        "torchrec": Torchrec(features, device),
        "full": Slimtab(features, "full", None, device),
        "full-adagrad": Slimtab(features, "full", None, device, "rowwise_adagrad"),
        "full, in any order": Slimtab(features, "full", None, device, repeatable=False),
    }
    for method, budget in (name.split(":") for name in options.methods):
        contenders[f"{method} {budget}"] = Slimtab(features, method, budget, device)
    for size in options.batch:
        time_batches(
            contenders | {"network": Network(features, device, size)}, features, size, device, options
        )
    dist.destroy_process_group()


def time_batches(contenders, features, size, device, options) -> None:
    """Take turns over batches of ``size`` rows, and print a line for each contender."""
    ids, dense, label = map(torch.from_numpy, workload.batches(options.ids, options.steps, size))
    keys = tuple(feature.name for feature in features)
    batches = [Batch(dense[i], keys, ids[i], label[i]) for i in range(options.steps)]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds + 1):  # the first warms up
        for name, contender in contenders.items():
            synchronize(device)
            started = time.perf_counter()
            contender.train(batches)
            synchronize(device)
            seconds[name].append((time.perf_counter() - started) / options.steps)
    for name, times in seconds.items():
        ratios = [own / other for own, other in zip(times[1:], seconds["torchrec"][1:], strict=True)]
        figures = {
            "batch": size,
            "contender": name,
            "ms": round(1000 * median(times[1:]), 2),
            "rows_per_second": round(size / median(times[1:])),
            "ratio": round(median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        }
        print(json.dumps(figures), flush=True)


def synchronize(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
