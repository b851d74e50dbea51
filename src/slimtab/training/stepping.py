"""What every training loop does alike: collect a batch's gradients, and enter a table's next stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from slimtab.batch import Batch
from slimtab.models.base import CTRModel
from slimtab.tables.base import Clock, EmbeddingTable


def table_of(model: CTRModel) -> EmbeddingTable:
    """Return the table of a model that is not frozen."""
    table = model.tables.table
    assert isinstance(table, EmbeddingTable)
    return table


def collect_gradients(model: CTRModel, batch: Batch, check: Callable[[float], None] | None = None) -> float:
    """Collect the gradients of a batch and return its loss, without what the table adds to it.

    Args:
        model: in training mode.
        batch: the rows.
        check: looks at the loss before its gradients are computed.
    """
    loss = binary_cross_entropy_with_logits(model(batch), batch.label)
    value = loss.item()
    if check is not None:
        check(value)
    penalty = table_of(model).penalty()
    torch.autograd.backward(loss if penalty is None else loss + penalty)
    return value


def enter_stage(
    model: CTRModel,
    stage: str,
    clock: Clock,
    start_values: Callable[[], Mapping[str, Tensor]],
    choose: Callable[[CTRModel, str], None] | None = None,
) -> None:
    """Let a model's table choose what its next stage looks like, and enter it.

    Args:
        model: with the best weights of the stage before.
        stage: the next one.
        clock: where training stands at the end of the one before.
        start_values: gives the model's state before training; asked for where the stage rewinds to it.
        choose: chooses in the table's stead.
    """
    table = table_of(model)
    table.end_stage(clock)
    if choose is None:
        table.choose(stage)
    else:
        choose(model, stage)
    if stage in table.rewinds:
        model.load_state_dict(model.state_dict() | dict(start_values()))  # what was chosen stays
    table.set_stage(stage)
