"""What a search keeps on disk, in a run folder: the supernet it began from, and its study."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slimtab.errors import SlimtabError
from slimtab.files import written
from slimtab.studies import differing, open_study
from slimtab.training.checkpoint import latest_checkpoint

if TYPE_CHECKING:
    from optuna.study import Study

STUDY = "study.journal"
_SUPERNET = "supernet.safetensors"
_WEIGHTS = ("initial.safetensors", "best-supernet.safetensors")


def keep_supernet(run: Path) -> None:
    """Copy what other runs and processes need to begin at a run's search."""
    kept, checkpoints = run / "search", run / "checkpoints"
    kept.mkdir(parents=True, exist_ok=True)
    newest = latest_checkpoint(checkpoints)
    assert newest is not None
    for path in (*(checkpoints / name for name in _WEIGHTS), newest):
        copy = kept / (_SUPERNET if path == newest else path.name)
        if not copy.exists():
            with written(copy) as beside:
                shutil.copyfile(path, beside)


def take_supernet(source: Path, run: Path) -> None:
    """Put another search's supernet into a new run folder, which then goes on from it.

    Raises:
        SlimtabError: when ``source`` holds none.
    """
    kept, checkpoints = source / "search", run / "checkpoints"
    if not (kept / _SUPERNET).exists():
        raise SlimtabError(f"{source} holds no finished supernet; name the folder of a `slimtab search`")
    checkpoints.mkdir(parents=True, exist_ok=True)
    for name in _WEIGHTS:
        shutil.copyfile(kept / name, checkpoints / name)
    shutil.copyfile(kept / _SUPERNET, checkpoints / "step-0000000000.safetensors")


def take_study(source: Path, run: Path) -> None:
    """Put another search's study into a new run folder, which then need not search."""
    (run / "search").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "search" / STUDY, run / "search" / STUDY)


def search_study(run: Path, directions: Sequence[str], belongs: Mapping[str, object]) -> Study:
    """Open a run's study, or make one.

    Args:
        run: run folder.
        directions: ``maximize`` or ``minimize``, of AUC and perhaps of bytes.
        belongs: what the study is of, in plain values; it must not differ from what it was made with.

    Raises:
        SlimtabError: when the study is another search's.
    """
    path = run / "search" / STUDY
    study = open_study(path, "widths", dict(zip(("auc", "bytes"), directions, strict=False)))
    expected = {**belongs, "directions": list(directions)}
    if (key := differing(study, expected)) is not None:
        raise SlimtabError(
            f"{path} belongs to another search ({key} is {study.user_attrs[key]}, not {expected[key]}); "
            "choose another --run"
        )
    return study
