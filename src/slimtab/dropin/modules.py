"""The modules that stand where embeddings stood, and are called alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimtab.dropin.finding import Source
from slimtab.tables.base import EmbeddingTable, FrozenTable
from slimtab.tables.parts.distinct import distinct


class DropIn(nn.Module):
    """What both kinds share. One of the drop-ins of a table owns it; the others know it by reference only.

    So parameters and state stand in the model once, whatever the number of modules that read them.
    """

    table: EmbeddingTable | FrozenTable

    def __init__(
        self, source: Source, table: EmbeddingTable | FrozenTable, name: str, slot: int, owns: bool
    ) -> None:
        super().__init__()
        self.name = name
        self.num_embeddings, self.embedding_dim = source.num_embeddings, source.embedding_dim
        self.padding_idx, self.slot, self.dtype = source.padding_idx, slot, source.weight.dtype
        self.method = table.method if isinstance(table, EmbeddingTable) else type(table).__name__
        # Features of a table that projects; what was shrunk after training never does.
        self.projected = 0
        if isinstance(table, EmbeddingTable) and type(table).project is not EmbeddingTable.project:
            self.projected = len(table.features)
        if owns:
            self.table = table
        else:
            object.__setattr__(self, "table", table)
        self.train(source.training)

    def look_up(self, ids: Tensor) -> Tensor:
        """Return vectors [N, width] for ``ids`` [N], each distinct id looked up once while it is trained."""
        ids = ids.long()
        if len(ids) and bool(((ids < 0) | (ids >= self.num_embeddings)).any()):
            wrong = int(ids[(ids < 0) | (ids >= self.num_embeddings)][0])
            raise IndexError(
                f"id {wrong} of embedding '{self.name}' is outside 0 … {self.num_embeddings - 1}"
            )
        if not (torch.is_grad_enabled() or self.table.costly):
            return self.table(ids, torch.full_like(ids, self.slot))  # type: ignore[no-any-return]
        each = distinct(ids)
        return each.expand(self.table(each.values, torch.full_like(each.values, self.slot)))

    def finish(self, vectors: Tensor) -> Tensor:
        """Project [B, width] to [B, dim] where the method does."""
        if self.projected:
            whole = vectors.new_zeros(len(vectors), self.projected, vectors.shape[1])
            at = torch.tensor([self.slot], device=vectors.device)
            vectors = self.table.project(whole.index_copy(1, at, vectors[:, None]))[:, self.slot]
        return vectors.to(self.dtype)

    def extra_repr(self) -> str:
        """Show what an embedding shows."""
        return f"{self.num_embeddings}, {self.embedding_dim}, method={self.method}"


class Vectors(DropIn):
    """Stands for `nn.Embedding`."""

    padding: Tensor | None

    def __init__(
        self, source: Source, table: EmbeddingTable | FrozenTable, name: str, slot: int, owns: bool
    ) -> None:
        super().__init__(source, table, name, slot, owns)
        padding = None if self.padding_idx is None else source.weight.detach()[self.padding_idx].clone()
        self.register_buffer("padding", padding)

    def forward(self, input: Tensor) -> Tensor:
        """Return vectors [..., dim] for ids of any shape; that of ``padding_idx`` is fixed, as in torch."""
        vectors = self.finish(self.look_up(input.reshape(-1))).view(*input.shape, self.embedding_dim)
        if self.padding is not None and self.padding_idx is not None:
            vectors = torch.where(input.eq(self.padding_idx)[..., None], self.padding, vectors)
        return vectors


class Bags(DropIn):
    """Stands for `nn.EmbeddingBag`."""

    def __init__(
        self, source: Source, table: EmbeddingTable | FrozenTable, name: str, slot: int, owns: bool
    ) -> None:
        super().__init__(source, table, name, slot, owns)
        assert isinstance(source, nn.EmbeddingBag)
        self.mode, self.include_last_offset = source.mode, source.include_last_offset

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Return pooled vectors [B, dim]; arguments are those of `nn.EmbeddingBag`."""
        if per_sample_weights is not None and self.mode != "sum":
            raise ValueError(f"per_sample_weights go with mode 'sum', and this embedding has '{self.mode}'")
        if input.dim() == 2:
            if offsets is not None:
                raise ValueError("a 2-D input is one bag per row; give no offsets")
            size, ids = len(input), input.reshape(-1)
            lengths = torch.full((size,), input.shape[1], device=input.device)
        else:
            if offsets is None:
                raise ValueError("a 1-D input needs offsets that say where its bags begin")
            ids, ends = input, offsets[1:]
            if not self.include_last_offset:
                ends = torch.cat([ends, offsets.new_tensor([len(input)])])
            lengths = ends - offsets[: len(ends)]
            size = len(lengths)
        bag = torch.repeat_interleave(torch.arange(size, device=ids.device), lengths)
        weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
        if self.padding_idx is not None:
            kept = ids != self.padding_idx
            ids, bag, weights = ids[kept], bag[kept], None if weights is None else weights[kept]
        vectors = self.look_up(ids)
        if weights is not None:
            vectors = vectors * weights[:, None]
        pooled = vectors.new_zeros(size, vectors.shape[1]).index_add(0, bag, vectors)
        if self.mode == "mean":
            pooled = pooled / torch.bincount(bag, minlength=size).clamp(min=1)[:, None]
        return self.finish(pooled)
