"""What a compression inside somebody else's model did, and what it leaves to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from slimtab.sizes import format_bytes
from slimtab.tables.base import EmbeddingTable


@dataclass
class Report:
    """What :func:`~slimtab.dropin.compress` did.

    Attributes:
        full_bytes: of what was replaced.
        serve_bytes: of what stands there now, when frozen.
        replaced: names of the modules replaced.
        left: names of embeddings left as they are, with the reason.
        kept_weights: those of the replaced that go on from their trained weights; the others start anew.
        now_dense: those that had ``sparse=True`` and now have ordinary gradients: torch.optim.SparseAdam
            cannot train them.
        tables: the tables, one per width.
        todo: what the model's own training code must still do; empty for most methods.
    """

    full_bytes: int = 0
    serve_bytes: int = 0
    replaced: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    kept_weights: list[str] = field(default_factory=list)
    now_dense: list[str] = field(default_factory=list)
    tables: list[EmbeddingTable] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)

    def add_table(self, table: EmbeddingTable) -> None:
        """Note a new table, and what its method asks of training code."""
        kind, name = type(table), f"report.tables[{len(self.tables)}]"
        self.tables.append(table)
        self.todo += [
            f"enter the next stage of training with {name}.set_stage('{stage}') and a new optimizer"
            for stage in kind.stages[1:]
        ]
        if kind.penalty is not EmbeddingTable.penalty:
            self.todo.append(f"add {name}.penalty() to the loss, unless it is None")
        if kind.on_step is not EmbeddingTable.on_step:
            clock = "slimtab.tables.base.Clock(step, steps_per_epoch, total)"
            self.todo.append(f"call {name}.on_step({clock}) before each step")
        if kind.end_stage is not EmbeddingTable.end_stage:
            clock = "slimtab.tables.base.Clock(steps, steps_per_epoch, total)"
            self.todo.append(f"call {name}.end_stage({clock}) before the next stage")

    def __str__(self) -> str:
        lines = [
            f"{len(self.replaced)} embeddings replaced: {format_bytes(self.full_bytes)} are now "
            f"{format_bytes(self.serve_bytes)}; {len(self.kept_weights)} keep their trained weights"
        ]
        lines += [f"left as it is: {name} ({reason})" for name, reason in self.left.items()]
        lines += [f"has dense gradients now: {name}" for name in self.now_dense]
        return "\n".join([*lines, *(f"to do: {todo}" for todo in self.todo)])
