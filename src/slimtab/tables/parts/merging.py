"""Merge the most alike of many blocks of rows until a given number is left.

Ward's criterion (Ward, "Hierarchical grouping to optimize an objective function", JASA 1963) says what a
merge costs: by how much Σ weight · |row − shared row|² grows. Blocks are compared only with those that stand
beside them after sorting along random directions, as in locality-sensitive hashing, so that a round takes
time in proportion to the number of blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DIRECTIONS = 4  # random directions to sort along, each round
_CHUNK = 1 << 14  # pairs of blocks whose cost is computed at a time


def merge_blocks(blocks: Tensor, weights: Tensor, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Merge blocks until ``count`` are left, those first that cost least.

    Args:
        blocks: [n, rows, dim] float32.
        weights: of each row of each block [n, rows], not negative; 0 for rows that nobody reads.
        count: blocks to keep, at least 1.
        seed: of the random directions.

    Returns:
        For each block which one stands for it [n] int64, and the blocks kept [min(n, count), rows, dim]:
        weighted means of those they stand for.
    """
    generator = torch.Generator(device=blocks.device).manual_seed(seed)
    owner = torch.arange(len(blocks), device=blocks.device)
    while len(blocks) > count:
        pairs, cost = _neighbours(blocks, weights, generator)
        one, other = _cheapest(pairs, cost, len(blocks), len(blocks) - count, generator)
        blocks, weights = _merged(blocks, weights, one, other), weights.index_add(0, one, weights[other])
        kept = torch.ones(len(blocks), dtype=torch.bool, device=blocks.device)
        kept[other] = False
        number = torch.cumsum(kept, 0) - 1
        number[other] = number[one]
        owner, blocks, weights = number[owner], blocks[kept], weights[kept]
    return owner, blocks


def _neighbours(blocks: Tensor, weights: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return pairs [p, 2] of blocks that stand side by side in some direction, and their costs [p]."""
    flat = blocks.flatten(1)
    shape = (flat.shape[1], _DIRECTIONS)
    along = flat @ torch.randn(shape, generator=generator, device=flat.device)
    # Equal blocks, such as untrained ones, stand in another order in each direction.
    shuffled = torch.randperm(len(flat), generator=generator, device=flat.device)
    order = shuffled[torch.argsort(along[shuffled], dim=0, stable=True)]
    pairs = torch.stack([order[:-1], order[1:]], dim=-1).reshape(-1, 2)
    return pairs, torch.cat([_costs(blocks, weights, chunk) for chunk in torch.split(pairs, _CHUNK)])


def _costs(blocks: Tensor, weights: Tensor, pairs: Tensor) -> Tensor:
    one, other = weights[pairs[:, 0]], weights[pairs[:, 1]]
    apart = (blocks[pairs[:, 0]] - blocks[pairs[:, 1]]).square().sum(dim=2)
    return (one * other / (one + other).clamp(min=torch.finfo(one.dtype).tiny) * apart).sum(dim=1)


def _cheapest(
    pairs: Tensor, cost: Tensor, blocks: int, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return up to ``most`` disjoint pairs, one block of each and the other, cheapest first.

    A pair is taken when no pair that has a block in common with it is cheaper, and it is among the cheaper
    half of those, and among as many of all pairs as there are merges to go. Equal costs are ranked at random,
    else a row of equal blocks would give one pair only.
    """
    shuffled = torch.randperm(len(pairs), generator=generator, device=pairs.device)
    pairs = pairs[shuffled[torch.argsort(cost[shuffled], stable=True)]]
    rank = torch.arange(len(pairs), device=pairs.device)
    best = torch.full((blocks,), len(pairs), device=pairs.device)
    best.scatter_reduce_(0, pairs.flatten(), rank.repeat_interleave(2), "amin")
    chosen = (best[pairs] == rank[:, None]).all(dim=1).nonzero().squeeze(1)
    # A pair may stand side by side in every direction, and then counts as often.
    chosen = chosen[: (len(chosen) + 1) // 2][:most]
    taken = pairs[chosen[chosen < _DIRECTIONS * most]]
    return taken.min(dim=1).values, taken.max(dim=1).values


def _merged(blocks: Tensor, weights: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Return ``blocks`` with each of ``one`` replaced by its weighted mean with its ``other``."""
    first, second = weights[one], weights[other]
    share = (second / (first + second).clamp(min=torch.finfo(first.dtype).tiny))[..., None]
    return blocks.index_copy(0, one, torch.lerp(blocks[one], blocks[other], share))
