"""A small training on a planted signal: real optimizers, no files."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from slimtab.batch import Batch
from slimtab.config import OptimizerSettings
from slimtab.models.base import CTRModel
from slimtab.schema import Schema
from slimtab.tables.base import Clock, EmbeddingTable
from slimtab.testing.fakes import fake_batch
from slimtab.training.optimizers import Optimizers
from slimtab.training.stepping import collect_gradients, enter_stage, table_of


def planted_batches(schema: Schema, count: int, size: int, seed: int, strength: float = 1.5) -> list[Batch]:
    """Return batches whose clicks follow one hidden number per id of the one-hot features.

    Args:
        schema: the columns.
        count: number of batches.
        size: rows of each.
        seed: of the rows; the hidden numbers are the same for all seeds.
        strength: standard deviation of the hidden numbers.
    """
    generator = torch.Generator().manual_seed(12345)
    hidden = [strength * torch.randn(f.num_ids, generator=generator) for f in schema.one_hot]
    batches = []
    for number in range(count):
        fake = fake_batch(schema, size, 1000 * seed + number)
        logit = torch.stack([h[fake.ids[:, k]] for k, h in enumerate(hidden)]).sum(dim=0)
        label = (torch.rand(size, generator=generator) < torch.sigmoid(logit)).float()
        batches.append(Batch(fake.dense, fake.keys, fake.ids, label, fake.ragged))
    return batches


def train_steps(model: CTRModel, batches: Iterator[Batch] | list[Batch], optimizers: Optimizers) -> None:
    """Take a training step for each batch, as :class:`~slimtab.training.trainer.Trainer` does."""
    batches = list(batches)
    model.train()
    for step, batch in enumerate(batches):
        table_of(model).on_step(Clock(step, len(batches), len(batches)))
        optimizers.zero_grad()
        if optimizers.on_validation is not None:
            collect_gradients(model, batches[-1 - step])
            optimizers.step_on_validation()
        collect_gradients(model, batch)
        optimizers.step()


def walk_stages(model: CTRModel, batches: list[Batch], settings: OptimizerSettings) -> None:
    """Train on ``batches`` in the table's stage and each that follows; when called again, in the last."""
    table = table_of(model)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    for stage in table.stages[table.stages.index(table.stage) :]:
        if stage != table.stage:
            enter_stage(model, stage, Clock(len(batches), len(batches), len(batches)), lambda: initial)
        optimizers = Optimizers(model, settings, len(batches))
        optimizers.scale_lr(*table.learning_rates())
        train_steps(model, batches, optimizers)


def every_id(table: EmbeddingTable) -> tuple[Tensor, Tensor]:
    """Return all ids [N] of all features of a table, and their slots [N]."""
    sizes = [feature.num_ids for feature in table.features]
    ids = torch.cat([torch.arange(size) for size in sizes])
    return ids, torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
