"""Many ranks: rows spread over them, gradients added up, one checkpoint, one set of figures."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import slimtab
from slimtab.batch import Batch
from slimtab.config import OptimizerSettings, RunConfig
from slimtab.data.loader import Loader, Share
from slimtab.errors import FollowedError, SlimtabError
from slimtab.files import locked, written
from slimtab.models.base import CTRModel
from slimtab.sizes import parse_bytes
from slimtab.tables.base import EmbeddingTable
from slimtab.tables.rows.base import RowsFactory
from slimtab.tables.rows.quantised import QuantisedRows
from slimtab.training.checkpoint import latest_checkpoint, latest_folder
from slimtab.training.engine.base import Engine
from slimtab.training.engine.dcp import BLOCK, load_folder, read_state, save_folder, save_step
from slimtab.training.engine.draws import Draws
from slimtab.training.engine.factory import RanksFactory
from slimtab.training.engine.group import LEADER, broadcast_values, check_alike, gather, gather_to_leader
from slimtab.training.engine.planner import Cluster, collections, place, sharder
from slimtab.training.engine.sharded import ShardedRows
from slimtab.training.engine.whole import WholeLookups
from slimtab.training.metrics import Metrics, predict, score
from slimtab.training.optimizers import fused_rows
from slimtab.training.stepping import table_of

Outcome = TypeVar("Outcome")


class RankedEngine(Engine):
    """Trains as one of several ranks, each with a share of every batch.

    The loss is the mean over the whole batch and gradients are added up, so a step does what one process
    would do with that batch. What all ranks hold moves alike on all of them: they begin alike, and what is
    drawn at random for it comes from a generator that stands alike. Draws for a rank's own rows (dropout)
    come from a generator of its own.

    Args:
        config: of the run.
        device: this rank's own.
    """

    def __init__(self, config: RunConfig, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.leads = self.rank == LEADER
        self.share = Share(self.rank, self.count)
        self.draws = Draws(self.rank, self.device)
        self._config = config

    def check(self, data: Path, schema: Mapping[str, Any]) -> None:
        """See that all ranks have the same settings, dataset and versions.

        Raises:
            SlimtabError: on every rank, when one differs.
        """
        manifest = data / "manifest.json"
        check_alike(
            {
                "slimtab": slimtab.__version__,
                "torch": version("torch"),
                "torchrec": _installed("torchrec"),
                "settings": _digest(self._config.to_dict() | {"data": "", "run": ""}),
                "dataset": _digest([schema, manifest.read_text() if manifest.exists() else ""]),
            }
        )

    def make_rows(self, optimizer: OptimizerSettings, steps_per_epoch: int) -> RowsFactory:
        """Return what makes rows over ranks."""
        rule = fused_rows(optimizer, steps_per_epoch).optimizer
        return RanksFactory(rule, parse_bytes(self._config.ranks.shard_from))

    def begin(self, model: CTRModel, folder: Path) -> None:
        """Plan where rows go, show the plan, write ``plan.json``, and bring each rank its rows.

        Raises:
            SlimtabError: when the rows do not fit.
        """
        for module in model.modules():
            if isinstance(module, EmbeddingTable) and module.whole_batch:
                WholeLookups(module, self.draws)
            elif isinstance(module, QuantisedRows):
                module.gather = gather
        self.check_copies(model.state_dict())
        table = table_of(model)
        self.spread(model, folder, len(table.features) * getattr(table, "probes", 1))

    def spread(self, model: nn.Module, folder: Path, lookups: int) -> None:
        """Spread the large stores of rows of a model, of which each row of a batch looks up ``lookups``."""
        stores = {
            name.replace(".", "_"): module
            for name, module in model.named_modules()
            if isinstance(module, ShardedRows)
        }
        if not stores:
            return
        from torchrec.distributed import DistributedModelParallel
        from torchrec.distributed.comm_ops import set_gradient_division
        from torchrec.distributed.types import ShardingEnv

        set_gradient_division(False)  # gradients are of the whole batch's mean already
        optimizer = next(iter(stores.values())).optimizer
        on_host = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        cluster = Cluster(
            self.count,
            on_host,
            self._memory(on_host),
            self._config.training.batch_size,
            lookups,
            self.device.type,
        )
        modules = collections(stores)
        placement = place(modules, optimizer, cluster)
        check_alike({"plan": placement.owners})
        if self.leads:
            print(f"plan: {placement.summary()}", file=sys.stderr)
            with written(folder / "plan.json") as beside:
                beside.write_text(json.dumps(placement.to_dict(), indent=1) + "\n", encoding="utf-8")
        assert dist.group.WORLD is not None
        common = torch.get_rng_state()
        parallel = DistributedModelParallel(
            modules,
            env=ShardingEnv.from_process_group(dist.group.WORLD),
            device=self.device,
            plan=placement.plan,
            sharders=[sharder(optimizer)],
            init_data_parallel=False,
            init_parameters=False,
        )
        for name, rows in stores.items():
            rows.attach(parallel.module[name])
        torch.set_rng_state(common)  # torchrec and start values drew by what this rank holds

    def _memory(self, on_host: int) -> int:
        """Return the bytes of memory that this rank may take, one of ``on_host`` on its machine."""
        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[1])
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // on_host

    def lead(self, act: Callable[[], Outcome]) -> Outcome:
        """Act on the leading rank; plain values it returns, and a :class:`SlimtabError`, reach all."""
        error, outcome = None, None
        if self.leads:
            try:
                outcome = act()
            except SlimtabError as raised:
                error = raised
        told = broadcast_values([None if error is None else str(error), outcome])
        if error is not None:
            raise error
        if told[0] is not None:
            raise FollowedError(told[0])
        return told[1]  # type: ignore[no-any-return]

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        """Lock the folder by the leading rank."""
        with ExitStack() as stack:
            self.lead(lambda: stack.enter_context(locked(folder)))
            yield

    def collect(self, model: CTRModel, batch: Batch, check: Callable[[float], None]) -> float:
        """Collect the gradients of the whole batch, of which ``batch`` is this rank's share."""
        assert batch.whole is not None or self.count == 1
        with self.draws.own():
            loss = binary_cross_entropy_with_logits(model(batch), batch.label, reduction="sum")
            loss = loss / (batch.whole or batch.size)
            penalty = table_of(model).penalty()
            torch.autograd.backward(loss if penalty is None else loss + penalty / self.count)
        value = self._add_up(model, loss.detach())
        for buffer in table_of(model).measured():
            dist.broadcast(buffer, self.count - 1)  # the last rank has a row of every batch
        check(value)
        return value

    def evaluate(
        self, model: CTRModel, rows: Loader, check: Callable[[float], None] = lambda _: None
    ) -> Metrics:
        """Score all rows of a split: the leading rank gathers their probabilities."""
        label, probability = predict(model, rows)
        labels = gather_to_leader(torch.from_numpy(label))
        probabilities = gather_to_leader(torch.from_numpy(probability))

        def figures() -> dict[str, Any]:
            everything = torch.cat(probabilities).numpy()
            check(float(everything.sum()))
            return score(torch.cat(labels).numpy(), everything).to_dict()

        return Metrics(**self.lead(figures))

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write a folder, together."""
        save_folder(path, tensors, metadata)

    def read(self, path: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read a folder: what all ranks hold, and this rank's rows in place."""
        return load_folder(path, own)

    def save(
        self, folder: Path, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
    ) -> None:
        """Write the checkpoint of a step, together, and see that ranks stand alike where they should."""
        self.check_copies(tensors)
        save_step(folder, step, tensors, metadata)

    def newest(self, folder: Path) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint, of any number of ranks."""
        if latest_checkpoint(folder) is not None:
            raise SlimtabError(
                f"{folder} holds checkpoints of one process; go on without torchrun, or choose another --run"
            )
        path = latest_folder(folder)
        return None if path is None else (path, read_state(path))

    def whole(self, model: CTRModel, folder: Path) -> None:
        """Bring all rows to a file of the leading rank, a block at a time."""
        for module in model.modules():
            if isinstance(module, ShardedRows):
                module.whole(self.leads, folder)

    def _add_up(self, model: CTRModel, loss: Tensor) -> float:
        """Add up over ranks the gradients of all parameters, and the loss, which is returned."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # A parameter that no rank's rows needed keeps no gradient, as in one process.
        touched = loss.new_tensor([parameter.grad is not None for parameter in parameters])
        grads = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(grad.flatten() for grad in grads), touched, loss[None]])
        dist.all_reduce(flat)
        sizes = [parameter.numel() for parameter in parameters]
        *parts, reached, total = torch.split(flat, [*sizes, len(parameters), 1])
        for parameter, part, ranks in zip(parameters, parts, reached.tolist(), strict=True):
            parameter.grad = part.view(parameter.shape) if ranks else None
        return float(total)

    def check_copies(self, tensors: Mapping[str, Tensor]) -> None:
        """See that what all ranks hold is alike on all of them."""
        digest = hashlib.sha256()
        for name, value in tensors.items():
            if BLOCK not in name:
                digest.update(name.encode())
                digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        check_alike({"copy of the weights": digest.hexdigest()[:16]})


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _installed(package: str) -> str:
    """Return the version of a package that small stores of rows do without."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
