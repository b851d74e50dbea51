"""A step over ranks against the same step in torchrec alone, in turns, in the same processes.

    torchrun --nproc-per-node 2 benchmarks/distributed.py data/criteo

Both train a DeepFM with the same batches, row-wise Adagrad fused into full tables by fbgemm, and AdamW.
torchrec alone is what its documentation shows: an `EmbeddingBagCollection` with a table for each feature,
its planner, and `DistributedModelParallel`, whose data-parallel part is torch's DDP. slimtab adds rows that
decay, ids that are checked, and results that equal one process's.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch.nn.functional import binary_cross_entropy_with_logits

import plain_torchrec
from slimtab.batch import Batch
from slimtab.collection import TableCollection
from slimtab.config import build_config
from slimtab.data.loader import Loader, Share
from slimtab.models.base import build_model
from slimtab.training.allocator import keep_freed_memory
from slimtab.training.engine.ranks import RankedEngine
from slimtab.training.optimizers import Optimizers

DIM = 16


class Slimtab:
    """Steps as `slimtab train` takes them."""

    def __init__(self, schema, method, budget, config, steps):
        self.engine = RankedEngine(config)
        torch.manual_seed(0)
        make_rows = self.engine.make_rows(config.optimizer, steps)
        tables = TableCollection.build(schema.features, DIM, method, budget, make_rows=make_rows)
        self.model = build_model("deepfm", tables, len(schema.numerics), {}).train()
        with TemporaryDirectory() as folder:  # the plan that is written there is printed, too
            self.engine.begin(self.model, Path(folder))
        self.optimizers = Optimizers(self.model, config.optimizer, steps)

    def step(self, batch):
        self.optimizers.zero_grad()
        loss = self.engine.collect(self.model, batch, float)  # `float` checks nothing
        self.optimizers.step()
        return loss


class Torchrec:
    """Steps as torchrec's users take them."""

    def __init__(self, schema, config):
        torch.manual_seed(0)
        features = schema.features
        model = plain_torchrec.Bags(features, DIM, len(schema.numerics), {})
        rates = config.optimizer.rows_lr, config.optimizer.lr
        self.model, self.dense = plain_torchrec.parallel(model, features, *rates, torch.device("cpu"))

    def step(self, batch):
        self.dense.zero_grad()
        logit = self.model(batch.dense, batch.kjt())
        loss = binary_cross_entropy_with_logits(logit, batch.label)
        loss.backward()
        self.dense.step()
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=4096, help="rows of a step, all ranks' together")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a contender in each round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    loader = Loader(
        options.data, "train", options.batch, shuffle=True, drop_last=True, share=Share(rank, ranks)
    )
    batches: list[Batch] = [batch for batch, _ in zip(loader, range(options.steps + 1), strict=False)]
    config = build_config({"optimizer": {"rows": "rowwise_adagrad"}, "ranks": {"shard_from": 0}})
    schema = loader.schema
    contenders = {
        "torchrec": Torchrec(schema, config),
        "full": Slimtab(schema, "full", None, config, len(loader)),
        "unified 10%": Slimtab(schema, "unified", "10%", config, len(loader)),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    losses = {}
    for _ in range(options.rounds + 1):  # the first warms up
        for name, contender in contenders.items():
            contender.step(batches[0])
            dist.barrier()
            started = time.perf_counter()
            for batch in batches[1:]:
                losses[name] = contender.step(batch)
            dist.barrier()
            times[name].append((time.perf_counter() - started) / options.steps)
    if rank == 0:
        for name, seconds in times.items():
            ratios = [own / other for own, other in zip(seconds[1:], times["torchrec"][1:], strict=True)]
            print(
                json.dumps(
                    {
                        "contender": name,
                        "ranks": ranks,
                        "batch": options.batch,
                        "ms": round(1000 * median(seconds[1:]), 1),
                        "ratio": round(median(ratios), 3),
                        "lowest": round(min(ratios), 3),
                        "highest": round(max(ratios), 3),
                        "loss": round(losses[name], 4),
                    }
                )
            )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
