"""Rows spread over ranks: cut into blocks, each a TorchRec table with fbgemm's fused optimizer.

Row r stands in block ``r mod blocks``. So blocks are alike in size and in traffic, though frequent ids have
low row numbers, and TorchRec's planner can spread one huge store table by table on CPU, for which it has no
row-wise sharding. How a store is cut does not depend on the number of ranks: a checkpoint holds blocks, and
any number of ranks may go on from it.

Decay reaches every row at every step by one scalar, as in :mod:`slimtab.tables.rows.fused`: fbgemm's tables
hold w / scale, gradients pass it by, and their learning rate is divided by it.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from slimtab.errors import SlimtabError
from slimtab.sizes import parse_bytes
from slimtab.tables.parts.distinct import Distinct, distinct
from slimtab.tables.parts.reading import read_rows
from slimtab.tables.rows.base import Rows, SteppedRows
from slimtab.tables.rows.fused import SMALLEST_SCALE
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.training.engine.group import LEADER

if TYPE_CHECKING:
    from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

_FEWEST_BLOCKS = 16
_MOST_BLOCKS = 1024  # each is a table to torchrec's planner, and a key in every request
_USUAL_BLOCK = parse_bytes("256MB")
_DRAWN = 65_536  # rows of start values drawn at a time; a multiple of 16, which torch draws together


@dataclass
class Block:
    """A block on this rank: ``weight`` [rows, width] as stored and ``state`` [rows], views of fbgemm's."""

    weight: Tensor
    state: Tensor


@dataclass
class _Found:
    """Rows from their owners."""

    bags: Tensor  # [B, blocks · width] as stored, with the graph that leads to the owners
    place: Tensor  # [U] where each row stands in bags, seen as [B · blocks, width]

    def rows(self, width: int) -> Tensor:
        """Return the rows [U, width] as stored, without the graph."""
        return read_rows(self.bags.detach().view(-1, width), self.place)

    def send(self, gradient: Tensor) -> None:
        """Bring the owners the rows' gradient [U, width]; their optimizer is fused into that."""
        into = torch.zeros_like(self.bags).view(-1, gradient.shape[1])
        into[self.place] = gradient
        torch.autograd.backward([self.bags], [into.view(self.bags.shape)])


@dataclass
class _Lookup:
    """One lookup, held until the optimizer step."""

    rows: Tensor  # [U] distinct, by block
    found: _Found
    values: Tensor  # [U, width], the leaf that collects the gradient


class ShardedRows(SteppedRows):
    """Rows over ranks. All ranks look up and step at the same time, each its own rows.

    Until :meth:`attach` the rows stand nowhere. ``state_dict`` holds this rank's blocks under
    ``block.<number>``, and ``scale`` and ``steps`` as :class:`~slimtab.tables.rows.fused.FusedRows` has them.

    Args:
        num_rows: of all ranks.
        width: of a row.
        init_std: standard deviation of start values, which are those that one process would draw.
        optimizer: row-wise Adagrad.
    """

    scale: Tensor
    steps: Tensor
    _edges: Tensor

    def __init__(self, num_rows: int, width: int, init_std: float, optimizer: RowOptimizer) -> None:
        super().__init__()
        self.num_rows, self.width, self.optimizer = num_rows, width, optimizer
        self.lr, self.init_std = optimizer.lr, init_std
        blocks = -(-4 * num_rows * width // _USUAL_BLOCK)
        self.blocks = min(max(_FEWEST_BLOCKS, blocks), _MOST_BLOCKS)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._longest = -(-num_rows // self.blocks)
        edges = torch.arange(self.blocks + 1) * self._longest
        self.register_buffer("_edges", edges, persistent=False)
        self._generator = torch.get_rng_state()
        if not self.scale.is_meta:  # a plan's
            for _ in self._start_values():  # so that what is drawn next is what one process draws next
                pass
        self._factors: Tensor | None = None  # on start values, until those stand somewhere
        self._own: dict[int, Block] = {}
        self._tables: ShardedEmbeddingBagCollection | None = None
        self._column: Tensor | None = None  # where each block stands in what torchrec answers
        self._all: Tensor | None = None
        self._lookups: list[_Lookup] = []

    def collection(self, name: str) -> EmbeddingBagCollection:
        """Return the blocks as torchrec sees them, tables ``<name>_<number>`` that hold nothing yet.

        Rows are asked for one to a bag: a row's backward pass takes fbgemm's CPU kernels a tenth of the time
        that it takes those of ``EmbeddingCollection``, which has no bags.
        """
        from torchrec.modules.embedding_configs import EmbeddingBagConfig
        from torchrec.modules.embedding_modules import EmbeddingBagCollection

        self._keys = [f"{name}_{number}" for number in range(self.blocks)]
        tables = [
            EmbeddingBagConfig(
                name=key,
                embedding_dim=self.width,
                num_embeddings=max(1, self._rows_of(number)),
                feature_names=[key],
            )
            for number, key in enumerate(self._keys)
        ]
        return EmbeddingBagCollection(tables=tables, device=torch.device("meta"))

    def attach(self, tables: ShardedEmbeddingBagCollection) -> None:
        """Take the sharded blocks, and give this rank's their start values, drawn from torch's generator."""
        # Not a submodule: its parameters are rows, and no business of the dense optimizer.
        object.__setattr__(self, "_tables", tables)
        weights = tables.state_dict()
        states = tables.fused_optimizer.state_dict()["state"]
        for number, key in enumerate(self._keys):
            name = f"embedding_bags.{key}.weight"
            for part in weights[name].local_shards() if name in weights else []:
                state = states[name][f"{key}.momentum1"].local_shards()[0].tensor
                self._own[number] = Block(part.tensor.detach(), state.detach())
        torch.set_rng_state(self._generator)
        first = 0
        for drawn in self._start_values():
            if self._factors is not None:
                drawn *= self._factors[first : first + len(drawn), None]
            for number, block in self._own.items():
                skipped = (number - first) % self.blocks
                mine = drawn[skipped :: self.blocks]
                at = (first + skipped) // self.blocks
                block.weight[at : at + len(mine)] = mine
            first += len(drawn)
        self._factors = None

    def forward(self, address: Tensor) -> Tensor:
        """Return rows [N, width]; while gradients are on, remember them for :meth:`step`."""
        if self._all is not None:
            return F.embedding(address, self._all)
        rows = self._by_block(address)
        found = self._find(rows.values)
        values = found.rows(self.width).mul_(self.scale.float())
        if torch.is_grad_enabled():
            values.requires_grad_()
            self._lookups.append(_Lookup(rows.values, found, values))
        return rows.expand(values)

    @torch.no_grad()
    def step(self) -> None:
        """Decay every row, let the owners update the touched ones, and forget them."""
        if self._lookups:
            self._send()
        self._lookups.clear()
        self.steps += 1
        self.scale *= self._keep
        if self.scale < SMALLEST_SCALE:
            for block in self._own.values():
                block.weight *= self.scale.float()
            self.scale.fill_(1.0)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget rows touched since the last step."""
        super().zero_grad(set_to_none)
        self._lookups.clear()

    def _leaves(self) -> list[Tensor]:
        return [lookup.values for lookup in self._lookups]

    @torch.no_grad()
    def whole(self, lead: bool, folder: Path) -> None:
        """Send all rows to the leading rank, a block at a time, into a file that only it sees.

        The file, in ``folder``, is mapped and has no name: the kernel holds of it what memory has room for.
        From then on the leading rank reads all rows there, and nobody trains them.
        """
        everything = _file_backed(folder, self.num_rows, self.width) if lead else None
        owners = self._owners()
        room = torch.empty(self._longest, self.width)  # for all, as the heap would not give each one's back
        for number in range(self.blocks):
            rows = self._rows_of(number)
            sent = room[:rows]
            if number in self._own:
                sent.copy_(self._own[number].weight[:rows]).mul_(float(self.scale))
                if not lead:
                    dist.send(sent, LEADER)
            elif lead:
                dist.recv(sent, owners[number])
            if everything is not None:
                everything[number :: self.blocks] = sent
        self._all = everything

    def values(self) -> Tensor:
        """Return all rows on the leading rank, once :meth:`whole` has brought them there."""
        if self._all is None:
            raise self._apart("be read all at once")
        return self._all

    def assign(self, values: Tensor) -> None:
        """Refuse: no rank holds all rows."""
        raise self._apart("be replaced all at once")

    def multiply(self, factors: Tensor) -> None:
        """Multiply start values, before :meth:`attach`."""
        self._factors = factors

    def copy_rows(self, source: Tensor, target: Tensor) -> None:
        """Refuse: rows would have to travel between ranks."""
        raise self._apart("be copied")

    def take(self, source: Rows, address: Tensor) -> None:
        """Refuse: rows would have to travel between ranks."""
        raise self._apart("be taken over")

    def squared_gradients(self, touches: Tensor) -> Tensor:
        """Refuse: no rank knows of all rows."""
        raise self._apart("be weighed all at once")

    def train_bytes(self) -> int:
        """Bytes of weights and optimizer state on all ranks together."""
        return 4 * self.num_rows * (self.width + 1)

    def _apart(self, what: str) -> SlimtabError:
        return SlimtabError(f"rows that are spread over ranks cannot {what}; raise ranks.shard_from")

    def _rows_of(self, number: int) -> int:
        """Return how many rows block ``number`` has."""
        return len(range(number, self.num_rows, self.blocks))

    def _start_values(self) -> Iterator[Tensor]:
        """Draw the start values of all rows, some rows at a time: the numbers that one draw of all gives."""
        left = self.num_rows
        while left:
            count = left if left < 2 * _DRAWN else _DRAWN  # torch draws fewer than 16 in another way
            yield torch.empty(count, self.width).normal_(0.0, self.init_std)
            left -= count

    def _by_block(self, address: Tensor) -> Distinct:
        """Return the distinct rows among ``address``, numbered one block after another."""
        inside = torch.div(address, self.blocks, rounding_mode="floor")
        return distinct(inside + (address - inside * self.blocks) * self._longest)

    def _find(self, rows: Tensor) -> _Found:
        """Fetch ``rows`` [U] of :meth:`_by_block` from their owners."""
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        assert self._tables is not None, "the engine attaches rows before they are read"
        if torch.is_grad_enabled():  # fbgemm takes the rate of a step when it looks up
            self._set_rate(self._tables, self.lr / (float(self.scale) * self._keep))
        starts = torch.searchsorted(rows, self._edges)
        counts = starts.diff()
        block = torch.repeat_interleave(counts)
        bags = max(1, int(counts.max()))  # of each block; one with fewer rows leaves its last ones empty
        lengths = (torch.arange(bags, device=rows.device) < counts[:, None]).to(torch.int64).flatten()
        asked = KeyedJaggedTensor(self._keys, rows - self._edges[block], lengths=lengths, stride=bags)
        answer = self._tables(asked)
        if self._column is None:
            place = {key: at for at, key in enumerate(answer.keys())}
            self._column = rows.new_tensor([place[key] for key in self._keys])
        inside = torch.arange(len(rows), device=rows.device) - starts[block]
        return _Found(answer.values(), inside * self.blocks + self._column[block])

    def _send(self) -> None:
        """Bring the owners the gradients of all lookups since the last step."""
        if len(self._lookups) == 1:
            lookup = self._lookups[0]
            lookup.found.send(_gradient(lookup))
            return
        # fbgemm must see a row's gradients of all lookups at once, or it would step more than once.
        rows, inverse = torch.unique(
            torch.cat([lookup.rows for lookup in self._lookups]), return_inverse=True
        )
        gradients = torch.cat([_gradient(lookup) for lookup in self._lookups])
        with torch.enable_grad():
            found = self._find(rows)
        found.send(gradients.new_zeros(len(rows), self.width).index_add_(0, inverse, gradients))

    @property
    def _keep(self) -> float:
        """The share of itself that a row keeps at a step."""
        return 1.0 - self.lr * self.optimizer.weight_decay

    def _set_rate(self, tables: ShardedEmbeddingBagCollection, lr: float) -> None:
        optimizer = tables.fused_optimizer
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()  # which hands the rate to fbgemm and steps nothing

    def _owners(self) -> list[int]:
        """Return the rank of each block."""
        held = torch.zeros(self.blocks, dtype=torch.int64)
        held[list(self._own)] = dist.get_rank()
        dist.all_reduce(held)
        return held.tolist()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for number, block in self._own.items():
            destination[f"{prefix}block.{number}.weight"] = block.weight
            destination[f"{prefix}block.{number}.state"] = block.state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for number, block in self._own.items():
            for name, held in (("weight", block.weight), ("state", block.state)):
                given = state_dict.pop(f"{prefix}block.{number}.{name}")
                if given.data_ptr() != held.data_ptr():  # a checkpoint is read in place
                    held.copy_(given)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _gradient(lookup: _Lookup) -> Tensor:
    """Return the gradient of a lookup; zeros where this rank's share had no use of it."""
    return torch.zeros_like(lookup.values) if lookup.values.grad is None else lookup.values.grad


def _file_backed(folder: Path, rows: int, width: int) -> Tensor:
    """Return [rows, width] float32 in a file without a name, which goes when the tensor does."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(4 * rows * width)
        mapped = mmap.mmap(file.fileno(), 4 * rows * width)
    return torch.from_numpy(np.frombuffer(mapped, dtype=np.float32).reshape(rows, width))
