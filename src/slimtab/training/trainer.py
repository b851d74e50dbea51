"""The training loop: stages, steps, validations, checkpoints, and going on where a killed run stopped."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from torch import Tensor

from slimtab.batch import Batch
from slimtab.config import RunConfig
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.models.base import CTRModel
from slimtab.tables.base import Clock, EmbeddingTable
from slimtab.tables.grouped import read_config
from slimtab.training.device import repeatable
from slimtab.training.engine.base import Engine
from slimtab.training.generators import generator_states, set_generators
from slimtab.training.health import health_figures, warn_untrained
from slimtab.training.metrics import Metrics
from slimtab.training.observer import Observer, StepReport
from slimtab.training.optimizers import Optimizers, train_bytes
from slimtab.training.schedule import Schedule
from slimtab.training.stepping import enter_stage, table_of


class Trainer:
    """Trains a model on a dataset; validation decides when to stop and which weights are kept.

    The stages of the model's table follow one another: each begins with the best weights of the one before,
    or with the start values where the table rewinds to them, has optimizers and a schedule of its own, and
    may last ``training.epochs``.

    Args:
        model: the model, with its tables.
        train: training rows, shuffled.
        valid: validation rows.
        config: settings; ``optimizer`` and ``training`` matter here.
        checkpoints: folder for checkpoints. When it holds one, training goes on from it.
        observers: told about steps and validations.
        held_out: validation rows, shuffled, in batches as large as those of ``train``, for tables that learn
            from them; see :meth:`~slimtab.tables.base.EmbeddingTable.by_validation`.
        choose: decides what the table's next stage will look like, from the model with its best weights; the
            table's own ``choose`` unless told otherwise. When it is killed, it is called again.
        engine: where it is trained: in this process alone unless told otherwise.
    """

    def __init__(
        self,
        model: CTRModel,
        train: Loader,
        valid: Loader,
        config: RunConfig,
        checkpoints: Path,
        observers: Sequence[Observer] = (),
        held_out: Loader | None = None,
        choose: Callable[[CTRModel, str], None] | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.engine = engine or Engine()
        self.model, self.train_rows, self.valid_rows = model, train, valid
        self.held_out, self.choose = held_out, choose
        self._held_out_batches = chain.from_iterable(repeat(held_out or ()))  # pass after pass
        self.settings, self.checkpoints, self.observers = config.training, checkpoints, observers
        self.rates = config.optimizer
        self.step = 0
        self.train_bytes = 0  # of the stage that holds most
        self._prepare_stage()
        self.seconds = 0.0  # spent in training steps, over all sittings
        self.best: Metrics | None = None
        self.finished = False
        self._saved_at = 0.0

    @property
    def table(self) -> EmbeddingTable:
        """The model's table, not frozen."""
        return table_of(self.model)

    @property
    def rows_per_second(self) -> float:
        """Training rows per second, validations and checkpoints left out."""
        return self.step / len(self.train_rows) * self.train_rows.rows / max(self.seconds, 1e-9)

    def fit(self, trained: bool = False) -> Metrics:
        """Train to the end and leave the best weights in the model.

        Args:
            trained: whether the model comes with weights to which the first stage has nothing to add.

        Returns:
            Metrics of the best validation.

        Raises:
            SlimtabError: when the loss is not finite, naming the step.
        """
        if not self._resume():
            if self.table.rewinds:
                self.engine.write(self._initial_path, self.model.state_dict(), {})
            if trained:
                self._score()
                self.schedule.end(0)
                self.finished = self.table.stage == self.table.stages[-1]
        self._saved_at = time.perf_counter()
        try:
            with repeatable(self.engine.device):
                if self._stage_is_over and not self.finished:  # stopped while the next stage was chosen
                    self._end_stage()
                while not self.finished:
                    self._train_epoch()
        finally:
            for observer in self.observers:
                observer.on_end()
        self._load_best()
        assert self.best is not None
        return self.best

    def _train_epoch(self) -> None:
        """Train from the loader's position to the end of the epoch, or until training is over."""
        self.model.train()
        started = logged_at = time.perf_counter()
        logged_step = self.step
        for batch in self.train_rows:
            logging = self.step % self.settings.log_steps == 0
            loss, figures = self._train_step(batch, logging)
            now = time.perf_counter()
            if logging:
                rows = (self.step - logged_step) * self.train_rows.batch_size
                self._log(loss, rows / (now - logged_at), figures)
                logged_at, logged_step = now, self.step
            validate = self.schedule.validates(self._stage_step)
            if validate or self._is_checkpoint(now - self._saved_at):
                self.seconds += now - started
                if validate:
                    self._validate()
                self._save()
                if validate and self._stage_is_over:
                    self._end_stage()
                started = logged_at = self._saved_at = time.perf_counter()
                logged_step = self.step
            if self.finished:
                return
        self.seconds += time.perf_counter() - started

    def _train_step(self, batch: Batch, logging: bool) -> tuple[float, dict[str, float]]:
        """Return the batch's loss before the step, and figures for dashboards where ``logging``."""
        self.table.on_step(self._clock)
        self.optimizers.zero_grad()
        self.optimizers.use(self.schedule.scale(self._stage_step))
        if self.optimizers.on_validation is not None:
            self._backward(next(self._held_out_batches))
            self.optimizers.step_on_validation()
        value = self._backward(batch)
        if self.step == 0 and self.engine.leads:
            warn_untrained(self.model)
        figures = health_figures(self.model, batch) if logging else {}
        self.optimizers.step()
        self.step += 1
        return value, figures

    def _backward(self, batch: Batch) -> float:
        return self.engine.collect(self.model, batch, self._check_finite)

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise SlimtabError(
                f"the loss is {loss} at step {self.step}; lower optimizer.lr and optimizer.rows_lr, "
                "or look for extreme values in the numeric columns"
            )

    def _log(self, loss: float, rows_per_second: float, figures: dict[str, float]) -> None:
        epoch = self.step / len(self.train_rows)
        total = self.began + self.schedule.ends
        report = StepReport(self.step, total, epoch, loss, rows_per_second, figures)
        for observer in self.observers:
            observer.on_log(report)

    def _is_checkpoint(self, seconds: float) -> bool:
        every = self.settings.checkpoint_steps
        return seconds > 60 * self.settings.checkpoint_minutes or (
            every is not None and self.step % every == 0
        )

    def _validate(self) -> None:
        self._score()
        if self.schedule.goes_back:
            self._load_best()
        self.finished = self._stage_is_over and self.table.stage == self.table.stages[-1]

    def _score(self) -> None:
        """Score the validation rows, and keep the weights when they are the stage's best."""
        metrics = self.engine.evaluate(self.model, self.valid_rows, self._check_finite)
        best = self.schedule.update(self._stage_step, metrics.logloss)
        if best:
            self.best = metrics
            self.engine.write(self._best_path, self.model.state_dict(), {"step": self.step})
        for observer in self.observers:
            observer.on_validation(self.step, metrics, best)

    @property
    def _stage_step(self) -> int:
        """Steps done in the table's stage."""
        return self.step - self.began

    @property
    def _clock(self) -> Clock:
        return Clock(self._stage_step, len(self.train_rows), self.schedule.steps)

    @property
    def _stage_is_over(self) -> bool:
        return self._stage_step == self.schedule.ends

    def _end_stage(self) -> None:
        """Enter the table's next stage, if there is one, from the best weights of this one."""
        if self.finished:
            return
        stages = self.table.stages
        stage = stages[stages.index(self.table.stage) + 1]
        self._load_best()
        enter_stage(
            self.model,
            stage,
            self._clock,
            lambda: self.engine.read(self._initial_path, self.model.state_dict()),
            self.choose,
        )
        self._prepare_stage()
        self._score()  # what the stage begins with may be the best it sees
        self._save()

    def _prepare_stage(self) -> None:
        """Give the stage the table is in its place, its optimizers and its schedule."""
        self.model.to(self.engine.device)  # a stage may have brought weights that stand elsewhere
        self.optimizers = Optimizers(self.model, self.rates, len(self.train_rows))
        self.optimizers.scale_lr(*self.table.learning_rates())
        if self.optimizers.on_validation is not None and self.held_out is None:
            raise SlimtabError(f"{self.table.method} learns from validation rows; give the trainer held_out")
        epoch, settings = len(self.train_rows), self.settings
        self.schedule = Schedule.of(
            settings.epochs * epoch, settings.eval_steps or epoch, settings.patience, settings.cooldown
        )
        self.train_bytes = max(self.train_bytes, train_bytes(self.model))
        self.began = self.step

    def _load_best(self) -> None:
        self.model.load_state_dict(self.engine.read(self._best_path, self.model.state_dict()))

    @property
    def _best_path(self) -> Path:
        return self.checkpoints / f"best-{self.table.stage}"

    @property
    def _initial_path(self) -> Path:
        return self.checkpoints / "initial"

    def _save(self) -> None:
        tensors = self._model_tensors()
        tensors |= {f"optimizer.{name}": value for name, value in self.optimizers.tensors().items()}
        tensors |= generator_states(self.engine.device)
        state = {
            "stage": self.table.stage,
            "method": self.table.method,
            "table": dataclasses.asdict(self.table.config),
            "began": self.began,
            "step": self.step,
            "seconds": self.seconds,
            "train_bytes": self.train_bytes,
            "finished": self.finished,
            "best": self.best and self.best.to_dict(),
            "schedule": self.schedule.state_dict(),
            "loader": self.train_rows.state_dict(),
            "held_out": self.held_out and self.held_out.state_dict(),
        }
        self.engine.save(self.checkpoints, self.step, tensors, state)

    def _model_tensors(self) -> dict[str, Tensor]:
        return {f"model.{name}": value for name, value in self.model.state_dict().items()}

    def _resume(self) -> bool:
        """Go on from the newest checkpoint, where there is one, and return whether there was."""
        newest = self.engine.newest(self.checkpoints)
        if newest is None:
            return False
        path, state = newest
        if state["began"]:  # before, nothing was chosen, and a run may begin with what another trained
            self.table.adopt(read_config(self.table.method, state["table"])[1])
        stages = self.table.stages
        for stage in stages[1 : stages.index(state["stage"]) + 1]:
            self.table.set_stage(stage)
        self.step = state["began"]
        self._prepare_stage()
        tensors = self.engine.read(path, self._model_tensors())

        def part(prefix: str) -> dict[str, Any]:
            return {
                name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
            }

        self.model.load_state_dict(part("model."))
        self.optimizers.load(part("optimizer."))
        set_generators(tensors, self.engine.device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.finished = state["finished"] and self.table.stage == stages[-1]
        self.train_bytes = max(self.train_bytes, state["train_bytes"])
        self.best = state["best"] and Metrics(**state["best"])
        self.schedule = Schedule(**state["schedule"])
        self.train_rows.load_state_dict(state["loader"])
        if self.held_out is not None:
            self.held_out.load_state_dict(state["held_out"])
        return True
