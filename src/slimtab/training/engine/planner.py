"""Which rank holds which block of rows: TorchRec's planner, asked for the ranks of a run or for others."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from slimtab.errors import SlimtabError
from slimtab.sizes import format_bytes
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.training.engine.sharded import ShardedRows

if TYPE_CHECKING:
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.types import ShardingPlan

_RESERVED = 0.15  # of a rank's memory, for the network, batches and what travels


@dataclass(frozen=True)
class Cluster:
    """The machines a plan is for.

    Attributes:
        count: number of ranks.
        on_host: how many of them share a machine.
        memory: bytes of each.
        batch: rows of a step, all ranks' together.
        lookups: rows of tables that one row of a batch reads.
        device: ``cpu`` or ``cuda``: where the ranks keep their rows.
    """

    count: int
    on_host: int
    memory: int
    batch: int
    lookups: int
    device: str = "cpu"


@dataclass(frozen=True)
class Placement:
    """A plan.

    Attributes:
        plan: as torchrec takes it.
        owners: rank of each block, by ``<store>_<block>``.
        nbytes: by rank, of rows with their optimizer state and of what travels in a step.
        milliseconds: of a step's lookups by rank, as torchrec's planner estimates them.
    """

    plan: ShardingPlan
    owners: dict[str, int]
    nbytes: list[int]
    milliseconds: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the run folder."""
        return {
            "owners": self.owners,
            "bytes_per_rank": self.nbytes,
            "estimated_milliseconds_per_rank": self.milliseconds,
        }

    def summary(self) -> str:
        """Return a line for people."""
        return (
            f"{len(self.owners)} blocks of rows over {len(self.nbytes)} ranks, "
            f"{format_bytes(min(self.nbytes))} to {format_bytes(max(self.nbytes))} on each"
        )


def collections(stores: Mapping[str, ShardedRows]) -> nn.ModuleDict:
    """Return what torchrec shards: an ``EmbeddingBagCollection`` of blocks for each store."""
    return nn.ModuleDict({name: rows.collection(name) for name, rows in stores.items()})


def sharder(optimizer: RowOptimizer) -> EmbeddingBagCollectionSharder:
    """Return torchrec's sharder with an optimizer fused into the rows' backward pass."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

    return EmbeddingBagCollectionSharder(
        fused_params={
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "learning_rate": optimizer.lr,
            "eps": optimizer.eps,
        }
    )


def place(modules: nn.ModuleDict, optimizer: RowOptimizer, cluster: Cluster) -> Placement:
    """Plan which rank holds which block. All ranks that ask alike get the same answer.

    Blocks go to ranks whole (table-wise). Cut by columns, a row would have an accumulator for each slice,
    and learn otherwise than in one process.

    Raises:
        SlimtabError: when the rows do not fit.
    """
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
    from torchrec.distributed.planner.types import PlannerError, ShardingOption

    chosen: list[ShardingOption] = []

    def keep(options: list[ShardingOption]) -> list[ShardingOption]:
        chosen.extend(options)
        return options

    constraints, configs = {}, []
    for module in modules.values():
        blocks = module.embedding_bag_configs()  # type: ignore[operator]
        configs += blocks
        for block in blocks:
            constraints[block.name] = ParameterConstraints(
                sharding_types=["table_wise"],
                compute_kernels=["fused"],
                pooling_factors=[cluster.lookups / len(blocks)],
            )
    # The planner does not know of the accumulator beside each row.
    narrowest = min(config.embedding_dim for config in configs)
    room = int(cluster.memory * narrowest / (narrowest + 1))
    with _quiet():
        topology = Topology(
            world_size=cluster.count,
            local_world_size=cluster.on_host,
            compute_device=cluster.device,
            **{"ddr_cap" if cluster.device == "cpu" else "hbm_cap": room},
        )
        planner = EmbeddingShardingPlanner(
            topology=topology,
            batch_size=max(1, cluster.batch // cluster.count),
            storage_reservation=FixedPercentageStorageReservation(_RESERVED),
            constraints=constraints,
            callbacks=[keep],
            debug=False,
        )
        try:
            plan = planner.plan(modules, [sharder(optimizer)])
        except PlannerError as error:
            needed = sum(4 * config.num_embeddings * (config.embedding_dim + 1) for config in configs)
            enough = -(-needed // int((1 - _RESERVED) * cluster.memory))
            raise SlimtabError(
                f"{format_bytes(needed)} of rows with their optimizer do not fit {cluster.count} ranks of "
                f"{format_bytes(cluster.memory)}, of which {_RESERVED:.0%} is kept for other things; "
                f"take at least {max(enough, cluster.count + 1)} ranks, more memory, or a smaller budget"
            ) from error
    nbytes, milliseconds = [0] * cluster.count, [0.0] * cluster.count
    owners = {}
    for option in chosen:
        for shard in option.shards:
            owners[option.name] = shard.rank
            nbytes[shard.rank] += shard.storage.ddr + shard.storage.hbm + 4 * shard.size[0]
            milliseconds[shard.rank] += shard.perf.total
    return Placement(plan, owners, nbytes, milliseconds)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the planner's advice on hardware and its reports to itself: the plan is shown in our words."""
    logger = logging.getLogger("torchrec")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
