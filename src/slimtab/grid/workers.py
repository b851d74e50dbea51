"""Training processes side by side: no more than there are jobs, and no more than memory holds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimtab.errors import SlimtabError
from slimtab.files import locked
from slimtab.sizes import format_bytes

_PAUSE = 0.1  # seconds between two looks at the processes


@dataclass(frozen=True)
class Task:
    """A run to be trained.

    Attributes:
        folder: its run folder, with ``config.yaml`` in it.
        memory: tells how many bytes it will take, by what is known when it is asked.
        source: tells which finished run it may begin from when it is started, if any.
    """

    folder: Path
    memory: Callable[[], int]
    source: Callable[[], Path | None]


@dataclass(frozen=True)
class _Started:
    """A run under way and the memory kept for it; no process where another command trains it."""

    task: Task
    memory: int
    process: subprocess.Popen[bytes] | None

    @property
    def over(self) -> bool:
        if self.process is None:
            return not _held(self.task.folder)
        return self.process.poll() is not None


class Workers:
    """Runs tasks in processes of their own.

    Args:
        jobs: tasks at a time. Above one, each gets a single thread.
        memory: bytes that they may take together; None for no limit.
        told: takes a line about a run that has to wait for another command.
    """

    def __init__(self, jobs: int, memory: int | None, told: Callable[[str], None]) -> None:
        self.jobs, self.memory, self.told = jobs, memory, told
        self._started: list[_Started] = []

    def run(self, tasks: Sequence[Task]) -> Generator[tuple[Path, str | None]]:
        """Yield each folder when its run is over, with the last line it wrote when it failed.

        When the loop over this is left, by an error or a signal, all processes are ended at once; each goes
        on from its last checkpoint another time.
        """
        waiting = list(tasks)
        try:
            while waiting or self._started:
                for task in list(waiting):
                    if (reason := self._too_large(task)) is not None:
                        waiting.remove(task)
                        yield task.folder, reason
                    elif self._fits(task):
                        waiting.remove(task)
                        self._started.append(self._start(task))
                for started in [started for started in self._started if started.over]:
                    self._started.remove(started)
                    folder = started.task.folder
                    if started.process is not None:
                        yield folder, _outcome(folder, started.process.returncode)
                    elif (folder / "metrics.json").exists():
                        yield folder, None
                    else:  # stopped elsewhere before its end
                        waiting.insert(0, started.task)
                time.sleep(_PAUSE)
        finally:
            for started in self._started:
                if started.process is not None:
                    started.process.terminate()
            for started in self._started:
                if started.process is not None:
                    started.process.wait()
            self._started.clear()

    def _too_large(self, task: Task) -> str | None:
        need = task.memory()
        if self.memory is None or need <= self.memory:
            return None
        return f"takes about {format_bytes(need)}, more than --memory {format_bytes(self.memory)}"

    def _fits(self, task: Task) -> bool:
        if len(self._started) >= self.jobs:
            return False
        held = sum(started.memory for started in self._started)
        return self.memory is None or held + task.memory() <= self.memory

    def _start(self, task: Task) -> _Started:
        if reason := _held(task.folder):  # by a process that outlived the grid that began it, perhaps
            self.told(reason)
            return _Started(task, task.memory(), None)
        command = [sys.executable, "-m", "slimtab", "train", "--config", str(task.folder / "config.yaml")]
        if (source := task.source()) is not None:
            command += ["--from", str(source)]
        one_thread = {"OMP_NUM_THREADS": "1"} if self.jobs > 1 else {}
        environment = {"PYTHONWARNINGS": "ignore", **os.environ, **one_thread}
        with (task.folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        return _Started(task, task.memory(), process)


def _held(folder: Path) -> str:
    """Return which other process trains a run; nothing where none does."""
    try:
        with locked(folder):
            return ""
    except SlimtabError as error:
        return str(error)


def _outcome(folder: Path, status: int) -> str | None:
    if status == 0:
        return None
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}")
