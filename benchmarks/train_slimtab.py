"""slimtab's own DeepFM step, trained when told to (see worker.py).

``--method none`` is the floor: the same network fed embeddings made beforehand, as leaves that ask for their
gradient, because a step with tables has to compute it too. No table can make a step faster than that.

``--method fbgemm`` puts fbgemm's table-batched embedding, with its row-wise Adagrad fused into backward,
under the same network: the engine that `FusedRows` has to beat.

A method of several stages is timed in its first one, or with ``--stage last`` in its last, which it enters
with the weights it starts with: what a step costs does not depend on them.
"""

import itertools

import worker
import workload

STEPS_PER_EPOCH = 1000  # what a method does once per epoch is not timed


def main() -> None:
    parser = worker.arguments(__doc__)
    parser.add_argument("--method", default="full", help="a method of slimtab, 'none' or 'fbgemm'")
    parser.add_argument("--budget", default=None)
    parser.add_argument("--stage", default="first", choices=("first", "last"))
    parser.add_argument(
        "--rows", default="rowwise_adamax", choices=("rowwise_adamax", "adam", "rowwise_adagrad")
    )
    options = parser.parse_args()
    channel = worker.claim_stdout()
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from registry import counts
    from slimtab.batch import Batch
    from slimtab.collection import TableCollection
    from slimtab.config import OptimizerSettings
    from slimtab.models.base import build_model
    from slimtab.schema import Feature
    from slimtab.tables.base import Clock
    from slimtab.training.allocator import keep_freed_memory
    from slimtab.training.optimizers import Optimizers, fused_rows

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    bare = options.method in ("none", "fbgemm")
    if options.method == "none":
        options.batches = min(options.batches, 8)
    sizes, (ids, dense, label) = workload.feed(options)
    features = [Feature(f"C{i + 1}", size) for i, size in enumerate(sizes)]
    settings = OptimizerSettings(rows=options.rows, rows_lr=worker.LEARNING_RATE, lr=worker.LEARNING_RATE)
    count = len(ids)
    tables = TableCollection.build(
        [Feature(f.name, 4) for f in features] if bare else features,
        worker.DIM,
        "full" if bare else options.method,
        None if bare else options.budget,
        make_rows=fused_rows(settings, steps_per_epoch=STEPS_PER_EPOCH),
        counts=None if bare else counts(ids, features),
    )
    table = tables.table
    for stage in table.stages[1:] if options.stage == "last" else ():
        table.choose(stage)
        table.set_stage(stage)
    model = build_model("deepfm", tables, dense.shape[-1], {"mlp": options.hidden}).train()
    optimizers = Optimizers(model, settings)
    keys = tuple(feature.name for feature in features)
    ids, dense, label = map(torch.from_numpy, (ids, dense, label))
    batches = [Batch(dense[i], keys, ids[i], label[i]) for i in range(count)]
    leaves = [
        (0.01 * torch.randn(options.batch, len(features), worker.DIM)).requires_grad_()
        for _ in range(count if options.method == "none" else 0)
    ]
    fbgemm = _fbgemm(features, options.batch) if options.method == "fbgemm" else None

    def logits(index: int):
        batch = batches[index]
        if leaves:
            leaves[index].grad = None
            return model.interact(batch.dense, leaves[index])
        if fbgemm is not None:
            return model.interact(batch.dense, fbgemm(batch.ids))
        return model(batch)

    steps = itertools.count()

    def step(index: int) -> float:
        table.on_step(Clock(next(steps), STEPS_PER_EPOCH, 10 * STEPS_PER_EPOCH))
        optimizers.zero_grad()
        loss = binary_cross_entropy_with_logits(logits(index), batches[index].label)
        value = loss.item()
        penalty = table.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimizers.step()
        return value

    what = {"none": "network alone", "fbgemm": "fbgemm TBE, row-wise Adagrad"}.get(options.method)
    what = what or f"slimtab {options.method} {options.budget or ''}, {options.rows}, decay{stage_of(table)}"
    worker.serve(channel, what, step, count)


def stage_of(table) -> str:
    """The stage of a table that has several."""
    return f", stage {table.stage}" if len(table.stages) > 1 else ""


def _fbgemm(features, batch: int):
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        EmbeddingLocation,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(f.num_ids, worker.DIM, EmbeddingLocation.HOST, ComputeDevice.CPU) for f in features],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.01,
    )
    for weight in tables.split_embedding_weights():
        weight.normal_(0, 0.01)
    offsets = torch.arange(batch * len(features) + 1)

    def embed(ids):
        return tables(ids.t().reshape(-1), offsets).view(batch, len(features), worker.DIM)

    return embed


if __name__ == "__main__":
    main()
