"""Plain TorchRec, as its documentation shows it, for slimtab's steps to be held against.

An `EmbeddingBagCollection` with a table for each feature, its planner, `DistributedModelParallel`, row-wise
Adagrad fused into the tables by fbgemm, and under it all slimtab's own DeepFM network.
"""

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingEnv

from slimtab.collection import TableCollection
from slimtab.models.base import build_model


def network(features, dim: int, num_dense: int, options):
    """DeepFM's network without tables: it takes the embeddings of ``features``."""
    with torch.device("meta"):
        tables = TableCollection.build(features, dim)
    model = build_model("deepfm", tables, num_dense, options)
    model.tables = None
    return model


class Bags(nn.Module):
    """DeepFM over an `EmbeddingBagCollection`."""

    def __init__(self, features, dim: int, num_dense: int, options):
        super().__init__()
        self.bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=f"t_{f.name}", embedding_dim=dim, num_embeddings=f.num_ids, feature_names=[f.name]
                )
                for f in features
            ],
            device=torch.device("meta"),
        )
        self.shape = (-1, len(features), dim)
        self.net = network(features, dim, num_dense, options)

    def forward(self, dense, ids):
        return self.net.interact(dense, self.bags(ids).values().view(self.shape))


def parallel(model: Bags, features, rows_lr: float, lr: float, device: torch.device):
    """The model over all ranks, and AdamW for its network; the rows' optimizer is fused into their tables."""
    sharder = EmbeddingBagCollectionSharder(
        fused_params={
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "learning_rate": rows_lr,
            "eps": 1e-8,
        }
    )
    # Left alone, the planner puts small tables on every rank, with an optimizer of another kind.
    constraints = {
        f"t_{f.name}": ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"])
        for f in features
    }
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=dist.get_world_size(), compute_device=device.type),
        constraints=constraints,
    )
    spread = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=device,
        plan=planner.collective_plan(model, [sharder], dist.group.WORLD),
        sharders=[sharder],
    )
    dense = [p for name, p in spread.named_parameters() if ".bags." not in name]
    return spread, torch.optim.AdamW(dense, lr=lr, weight_decay=0.0, fused=True)
