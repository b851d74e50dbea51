"""Fine-tuning what shrinking left: codebooks and the dense network learn the old model's answers.

Distillation (Hinton, Vinyals & Dean, 2015). The labels of the training rows teach nothing here: the tables
know these rows by heart, and what is trained on them again gets worse from the first step. So the model as it
was is asked about rows nobody has seen: in a batch each one-hot column is shuffled or left, by the toss of a
coin. The loss joins its probabilities, which keep the scale right, and its logits, which keep the order.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimtab.batch import Batch
from slimtab.tables.base import FrozenTable
from slimtab.training.metrics import Metrics, evaluate

_LR = 1e-4
_LOGITS = 0.25  # weight of squared differences of logits
_STEPS = 50  # between validations


@dataclass(frozen=True)
class Tuning:
    """What fine-tuning came to.

    Attributes:
        steps: of training.
        best: the step whose weights were kept; 0 for those it began with.
        before: validation metrics at the start.
        after: validation metrics of what was kept.
    """

    steps: int
    best: int
    before: Metrics
    after: Metrics

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def finetune(
    model: nn.Module,
    teacher: nn.Module,
    train: Iterable[Batch],
    valid: Callable[[], Iterable[Batch]],
    minutes: float,
    seed: int,
    told: Callable[[float], object] = lambda seconds: None,
) -> Tuning:
    """Train codebooks and the dense network of ``model`` in place, for so long.

    Validation follows every few steps. The weights of highest AUC are kept among those whose logloss is no
    higher than at the start, and the start is one of them: so it never ends worse there.

    Args:
        model: with shrunk tables; returns logits [B].
        teacher: the model before.
        train: training rows, pass after pass.
        valid: gives the validation rows.
        minutes: to train; the validation under way is finished.
        seed: of the shuffles.
        told: called with seconds gone since the last call.
    """
    codebooks = _Codebooks(model)
    dense = _dense_parameters(model)
    for parameter in dense:
        parameter.requires_grad_()  # a frozen model is opened without gradients
    optimizer = torch.optim.Adam([*dense, *codebooks.parameters], lr=_LR)
    generator = torch.Generator().manual_seed(seed)
    before = after = evaluate(model, valid())
    kept, best, steps = copy.deepcopy(model.state_dict()), 0, 0
    teacher.eval()
    ends = last = time.perf_counter()
    ends += 60 * minutes
    while time.perf_counter() < ends:
        codebooks.open()
        model.train()
        for _, batch in zip(range(_STEPS), train, strict=False):
            unseen = _shuffled(batch, generator)
            with torch.no_grad():
                target = teacher(unseen)
            logits = model(unseen)
            loss = F.binary_cross_entropy_with_logits(logits, torch.sigmoid(target))
            loss = loss + _LOGITS * F.mse_loss(logits, target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            steps += 1
            if time.perf_counter() >= ends:
                break
        codebooks.close()
        found = evaluate(model, valid())
        if found.auc > after.auc and found.logloss <= before.logloss:
            kept, best, after = copy.deepcopy(model.state_dict()), steps, found
        now = time.perf_counter()
        told(now - last)
        last = now
    model.load_state_dict(kept)
    model.eval()
    return Tuning(steps, best, before, after)


class _Codebooks:
    """The codebooks of frozen tables, as parameters while they are open, as they are served while not."""

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (module, name)
            for module in model.modules()
            if isinstance(module, FrozenTable)
            for name in module.codebooks
        ]
        self._dtypes = [getattr(module, name).dtype for module, name in self._places]
        self.parameters = [
            nn.Parameter(getattr(module, name).detach().float()) for module, name in self._places
        ]

    def open(self) -> None:
        for (module, name), parameter in zip(self._places, self.parameters, strict=True):
            del module._buffers[name]
            module.register_parameter(name, parameter)

    def close(self) -> None:
        for (module, name), dtype, parameter in zip(self._places, self._dtypes, self.parameters, strict=True):
            del module._parameters[name]
            module.register_buffer(name, parameter.detach().to(dtype, copy=True))


def _dense_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return all parameters that are no rows of embeddings."""
    rows = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module.parameters()
    }
    return [parameter for parameter in model.parameters() if parameter not in rows]


def _shuffled(batch: Batch, generator: torch.Generator) -> Batch:
    """Return a batch in which about half of the one-hot columns are shuffled."""
    ids: Tensor = batch.ids.clone()
    coins = torch.rand(ids.shape[1], generator=generator)
    for column in (coins < 0.5).nonzero().flatten().tolist():
        ids[:, column] = ids[torch.randperm(batch.size, generator=generator), column]
    return dataclasses.replace(batch, ids=ids)
