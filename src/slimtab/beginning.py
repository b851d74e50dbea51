"""Where a run may begin: with the full table that another run has trained already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from slimtab.config import RunConfig, first_difference, load_config
from slimtab.errors import SlimtabError
from slimtab.files import written_folder
from slimtab.schema import Schema
from slimtab.tables.base import get_method
from slimtab.training.engine.group import under_torchrun

_OWN = ("run", "data", "training.device", "table.method", "table.budget", "table.options")  # what may differ


def begin_from(source: Path, config: RunConfig, schema: Schema) -> None:
    """Put the checkpoints of a finished run of ``full`` into a new run's folder.

    The run goes on where its first stage ends. That stage would have trained the same, from the same seed, so
    the run becomes what it would have been without, to the last bit.

    Args:
        source: folder of that run.
        config: of the new run.
        schema: of its dataset.

    Raises:
        SlimtabError: when the method does not begin with a full table, or that run is not finished or has
            other settings.
    """
    if under_torchrun():
        raise SlimtabError("--from is for one process; leave it out, or start the run without torchrun")
    reason = why_not(source, config)
    if reason:
        raise SlimtabError(f"{config.run} cannot begin from {source}: {reason}; leave --from out")
    if json.loads((source / "dataset.json").read_text(encoding="utf-8")) != schema.to_dict():
        raise SlimtabError(f"{source} was trained on other data than {config.data}; leave --from out")
    copy_checkpoints(source, Path(config.run))


def why_not(source: Path, own: RunConfig) -> str:
    """Return why a run cannot begin from another in ``source`` on the same data; nothing where it can."""
    if own.table.rules or not get_method(own.table.method).begins_full:
        return f"{own.table.method} trains no full table first"
    if not (source / "metrics.json").exists() or not any((source / "checkpoints").glob("best-*")):
        return "that holds no finished run with its checkpoints"
    theirs = load_config(source / "config.yaml", {})
    if theirs.table.rules or theirs.table.method != "full":
        return f"that is a run of {theirs.table.method}, not of full"
    difference = first_difference(theirs, own, _OWN)
    return "" if difference is None else "that has {}={}, not {}".format(*difference)


def copy_checkpoints(source: Path, run: Path) -> None:
    """Copy the checkpoints of one run to another's folder, all or none."""
    with written_folder(run / "checkpoints") as beside:
        shutil.copytree(source / "checkpoints", beside, dirs_exist_ok=True)
