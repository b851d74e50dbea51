"""dedup, tt and prune: what their methods of training do, once, to tables that are trained already."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from slimtab.shrinking.vectors import Vectors
from slimtab.tables.base import FrozenTable
from slimtab.tables.dedup import Dedup, DedupConfig
from slimtab.tables.parts.pruning import PrunedConfig, cut
from slimtab.tables.parts.sparse import FrozenSparse
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.tt import TT, TTConfig, split_ids, split_width


@torch.no_grad()
def fit_dedup(vectors: Vectors, config: DedupConfig, seed: int, told: Callable[[int], object]) -> FrozenTable:
    """Merge blocks of rows until as many are left as the config says: the cheapest merges first."""
    table = Dedup(config, vectors.features, vectors.dim, PlainRows, 0.0)
    table.rows.assign(vectors.all())
    table.use_counts(vectors.counts)
    table.set_stage("share")
    told(vectors.rows)
    return table.freeze()


def fit_pruned(vectors: Vectors, nbytes: int) -> tuple[PrunedConfig, FrozenTable, list[int]]:
    """Keep the elements of largest weighted square that fit ``nbytes``; all others are zero.

    Returns:
        Settings, the frozen table, and the elements kept of each feature.
    """
    values = vectors.all()
    mask = cut(values.square() * vectors.weights[:, None], nbytes)
    rows, elements = int(mask.any(dim=1).sum()), int(mask.sum())
    config = PrunedConfig(nbytes=nbytes, rows=rows, elements=elements)
    kept = [int(part.sum()) for part in torch.split(mask, [f.num_ids for f in vectors.features])]
    return config, FrozenSparse(values, mask, rows, elements, vectors.offset), kept


@torch.no_grad()
def fit_trains(vectors: Vectors, config: TTConfig, seed: int, told: Callable[[int], object]) -> FrozenTable:
    """Decompose each large feature's table into a train of three cores, by two truncated singular values.

    Oseledets, "Tensor-train decomposition", SIAM Journal on Scientific Computing 2011. Ids that fill up the
    last block of a feature are zero.
    """
    table = TT(config, vectors.features, vectors.dim, PlainRows, 0.0)
    full, cores = [], [core.zero_() for core in table.cores]
    places = table.digits.offset[:3].t().tolist()
    parts = torch.split(vectors.all(), [feature.num_ids for feature in vectors.features])
    for slot, (values, whole) in enumerate(zip(parts, table.digits.whole, strict=True)):
        if whole:
            full.append(values)
        else:
            ids = torch.arange(len(values))
            address = table.digits(ids, torch.full_like(ids, slot))
            for core, first, part in zip(
                cores, places[slot], _train(values, address, places[slot], config.rank), strict=True
            ):
                core[first : first + len(part)] = part
        told(len(values))
    if full:
        table.rows.assign(torch.cat(full))
    return table.freeze()


def _train(values: Tensor, address: Sequence[Tensor], first: Sequence[int], rank: int) -> list[Tensor]:
    """Return the cores of one feature, as :class:`TT` lays them out.

    Args:
        values: [n, dim].
        address: rows of the three cores for each id, each [n].
        first: where the feature's rows begin in each core.
        rank: of both joints.
    """
    (n1, n2, n3), (d1, d2, d3) = split_ids(len(values)), split_width(values.shape[1])
    one, two, three = (rows - start for rows, start in zip(address, first, strict=True))
    cube = values.new_zeros(n1, n2, n3, d1, d2, d3)
    cube[one, two, three] = values.view(-1, d1, d2, d3)
    cube = cube.permute(0, 3, 1, 4, 2, 5).reshape(n1 * d1, n2 * d2 * n3 * d3)
    left = _directions(cube @ cube.t(), rank)
    rest = (left.t() @ cube).view(rank * n2 * d2, n3 * d3)
    right = _directions(rest.t() @ rest, rank)
    middle = (rest @ right).view(rank, n2, d2, rank).transpose(0, 1)
    return [
        left.reshape(n1, d1 * rank),
        middle.reshape(n2, rank * d2 * rank),
        right.t().reshape(rank, n3, d3).transpose(0, 1).reshape(n3, rank * d3),
    ]


def _directions(gram: Tensor, rank: int) -> Tensor:
    """Return the directions of largest eigenvalues [n, rank], zeros where there are no more."""
    found = torch.linalg.eigh(gram.double()).eigenvectors.flip(1)[:, :rank].float()
    return torch.nn.functional.pad(found, (0, rank - found.shape[1]))
