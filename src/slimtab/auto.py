"""`--method auto`: a budget in, a plan out, and a run of what proved best.

1. A model with full tables is trained: the yardstick.
2. On validation rows it is measured what every feature loses with fewer bits per id and gains with more
   (:mod:`slimtab.planning.sensitivity`), and the budget is spent where it brings most
   (:mod:`slimtab.planning.plan`).
3. The plan goes on training from there, through its codes; single methods of other kinds that fit the budget
   are trained beside it. The plan wins, unless one of them has the lower validation logloss by more than its
   noise. The winner's weights are the run's, so nothing is trained twice. Test rows are scored once, by the
   winner alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimtab.beginning import copy_checkpoints
from slimtab.config import Rule, RunConfig, TableSettings
from slimtab.data.loader import Loader
from slimtab.data.vocabulary import load_counts
from slimtab.errors import SlimtabError
from slimtab.files import written
from slimtab.models.base import CTRModel
from slimtab.planning.noise import surely_less
from slimtab.planning.options import codes_for, ladder_for
from slimtab.planning.plan import Entrant, Plan
from slimtab.planning.sensitivity import Mixtures, coding
from slimtab.reporting.plan import write_plan
from slimtab.run import Fitted, fit_run, train_run
from slimtab.schema import Schema
from slimtab.sizes import Budget
from slimtab.tables.full import Full
from slimtab.tables.grouped import Grouped, size_table
from slimtab.tables.parts.starts import starts
from slimtab.tables.rq import RQ, RQConfig
from slimtab.training.metrics import predict

_RIVALS = ("int8", "mde", "unified")  # one of each kind that the ladder is not
_ROWS = 1 << 14  # validation rows that plans are measured and tried on, about
_FLOATS = 1 << 24  # that their vectors may hold, for each step of the ladder
_BATCH = 1024  # rows looked up at a time


def auto_run(config: RunConfig) -> dict[str, Any]:
    """Plan, choose and train; stopped anywhere, the same call goes on.

    Args:
        config: of the run, with method ``auto`` and a budget.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        SlimtabError: when there is no budget, the dataset has hashed ids, or nothing fits.
    """
    if config.table.rules:  # a plan that was made before
        return train_run(config)
    if config.table.budget is None:
        raise SlimtabError("auto divides a budget; add --budget 10%")
    if not config.data or not config.run:
        raise SlimtabError("auto needs a dataset folder and --run runs/NAME")
    folder = Path(config.run)
    kept = folder / "plan" / "plan.json"
    if not kept.exists():
        _plan(config, folder / "plan")
    plan = json.loads(kept.read_text(encoding="utf-8"))
    rules = [Rule(**rule) for rule in plan["rules"]]
    if not (folder / "checkpoints").exists():
        copy_checkpoints(folder / "plan" / "runs" / plan["winner"], folder)
    return train_run(replace(config, table=replace(config.table, rules=rules)))


def _plan(config: RunConfig, folder: Path) -> None:
    """Measure, plan, let the plan and its rivals compete, and write all of it."""
    schema = Schema.load(Path(config.data) / "schema.json")
    hashed = next((f.name for f in schema.features if f.encoding == "hash"), None)
    if hashed is not None:
        raise SlimtabError(f"feature '{hashed}' has hashed ids, and auto needs numbered ones; see prep --ids")
    dim = config.table.dim
    budget = Budget.parse(config.table.budget or 0).resolve(schema.full_bytes(dim))
    alike = codes_for(schema.features, dim, budget)
    yardstick = _fit(config, folder, "full", [Rule("full")])
    plan = _measure(yardstick, config, schema, alike, budget)
    entries = {"plan": plan.rules()} | {
        method: [Rule(method)] for method in _RIVALS if _fits(method, schema, dim, budget)
    }
    entrants = [_entrant("full", yardstick, [])]
    losses = {}
    for name, rules in entries.items():
        start = partial(_begin_from, yardstick.trainer.model) if name == "plan" else None
        fitted = _fit(config, folder, name, rules, start)
        entrants.append(_entrant(name, fitted, rules))
        losses[name] = _losses(fitted, Path(config.data))
    better = [e for e in entrants[2:] if surely_less(losses[e.name], losses["plan"])]
    winner = min(better, key=lambda entrant: entrant.logloss, default=entrants[1])
    write_plan(folder, plan, entrants, winner, schema.full_bytes(dim))
    kept = {
        "winner": winner.name,
        "rules": [asdict(rule) for rule in winner.rules],
        "entrants": [asdict(entrant) for entrant in entrants],
        "gets": {f.name: plan.name(slot) for slot, f in enumerate(plan.features)},
        "loss": {
            f.name: {option.name(slot): lost for option, lost in zip(plan.ladder.options, row, strict=True)}
            for slot, (f, row) in enumerate(zip(plan.features, plan.loss.tolist(), strict=True))
        },
    }
    with written(folder / "plan.json") as beside:
        beside.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _entrant(name: str, fitted: Fitted, rules: list[Rule]) -> Entrant:
    valid = fitted.valid
    print(f"auto: {name} has validation logloss {valid.logloss:.5f}", file=sys.stderr)
    return Entrant(name, rules, valid.logloss, valid.auc, fitted.trainer.table.serve_bytes())


def _losses(fitted: Fitted, data: Path) -> NDArray[np.float64]:
    """Return the loss of each validation row, in nats."""
    label, probability = predict(fitted.trainer.model, Loader(data, "valid", _BATCH, shuffle=False))
    return -np.log(np.where(label > 0, probability, 1 - probability))


def _begin_from(yardstick: CTRModel, model: CTRModel) -> None:
    """Give a planned model the rows and network of the yardstick: its first stage would train the same."""
    state = {name: value for name, value in yardstick.state_dict().items() if not name.startswith("tables.")}
    model.load_state_dict(model.state_dict() | state)
    source, table = yardstick.tables.table, model.tables.table
    assert isinstance(source, Full)
    offsets = starts(feature.num_ids for feature in source.features).tolist()
    for part in table.tables if isinstance(table, Grouped) else [table]:
        assert isinstance(part, RQ | Full)
        places = [source.features.index(feature) for feature in part.features]
        own = [torch.arange(offsets[at], offsets[at] + source.features[at].num_ids) for at in places]
        part.rows.take(source.rows, torch.cat(own))


def _fit(
    config: RunConfig,
    folder: Path,
    name: str,
    rules: list[Rule],
    start: Callable[[CTRModel], None] | None = None,
) -> Fitted:
    table: TableSettings = replace(config.table, rules=rules)
    if name == "full":
        table = replace(table, budget=None)
    return fit_run(replace(config, run=str(folder / "runs" / name), table=table), start)


def _fits(method: str, schema: Schema, dim: int, budget: int) -> bool:
    try:
        size_table(schema.features, dim, budget, method)
    except SlimtabError:
        return False
    return True


def _measure(yardstick: Fitted, config: RunConfig, schema: Schema, alike: RQConfig, budget: int) -> Plan:
    from tqdm import tqdm

    data, model = Path(config.data), yardstick.trainer.model
    features, dim = model.tables.features, model.tables.dim
    batches = list(Loader(data, "valid", _BATCH, shuffle=False))
    rows = min(_ROWS, _FLOATS // (len(features) * dim))
    counts = load_counts(data, schema)
    ids = torch.cat([torch.from_numpy(counts[f.name]) for f in features])
    table = model.tables.table
    assert isinstance(table, Full)
    ladder = ladder_for(coding(table, ids, alike))
    mixtures = Mixtures(model, batches[:: max(1, -(-len(batches) * _BATCH // rows))], ids, ladder)
    with tqdm(unit="feature", desc="measuring", disable=not sys.stderr.isatty()) as bar:
        return Plan.make(mixtures, budget, bar.update)
