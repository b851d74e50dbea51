"""The state of a prep on disk: where it works, what belongs to which settings, and what is finished.

Prep works in ``OUT.partial`` beside OUT and renames it at the end, so OUT is either absent or whole. Every
piece of work is a file that appears under its name only when complete; a killed prep therefore needs no
log, it goes on with the first piece that is not there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from slimtab.data.chunks import Chunk
from slimtab.data.options import PrepOptions
from slimtab.data.sources import fingerprint
from slimtab.errors import SlimtabError
from slimtab.files import written

MANIFEST = "manifest.json"


class Workspace:
    """The folder a prep works in.

    Args:
        out: the dataset folder to make.
        options: the settings.
        sources: the raw files.
    """

    def __init__(self, out: Path, options: PrepOptions, sources: tuple[Path, ...]) -> None:
        self.out = out
        self.folder = out.with_name(out.name + ".partial")
        self.work = self.folder / "work"
        self.identity: dict[str, Any] = {
            "settings": options.settings(),
            "sources": [fingerprint(path) for path in sources],
        }
        # Only while unfinished: a source touched between two runs may have changed anywhere.
        self._times = [path.stat().st_mtime_ns for path in sources]

    def finished(self) -> bool:
        """Whether OUT holds this very dataset already.

        Raises:
            SlimtabError: when OUT holds anything else.
        """
        if not self.out.exists() or (self.out.is_dir() and not any(self.out.iterdir())):
            return False
        manifest = self.out / MANIFEST
        if not self.out.is_dir() or not manifest.is_file():
            raise SlimtabError(
                f"{self.out} exists and is not a prepared dataset; choose another OUT, or move it away"
            )
        self._compare(
            _read(manifest), f"{self.out} holds a dataset", "choose another OUT, or remove that folder"
        )
        return True

    def open(self, sizes: dict[str, int]) -> dict[str, int]:
        """Create the folder, or take up the one of an earlier run; only one process may hold it.

        Args:
            sizes: how large the pieces of work are to be.

        Returns:
            The sizes of the earlier run where there is one, as its pieces must fit the new ones.

        Raises:
            SlimtabError: when another process works there, or the earlier run had other settings or sources.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        self._hold()
        try:
            return self._take_up(sizes)
        except BaseException:
            self.close()
            raise

    def _hold(self) -> None:
        # Held until the process ends, however it ends.
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise SlimtabError(
                f"another prep is writing {self.out}; wait for it, or choose another OUT"
            ) from error

    def _take_up(self, sizes: dict[str, int]) -> dict[str, int]:
        state = self.work / "state.json"
        if not state.exists():
            if (self.folder / MANIFEST).exists():
                return sizes
            self._begin(state, sizes)
        found = _read(state)
        try:
            self._check_same(found)
        except SlimtabError:
            if self._holds_rows():
                raise
            # Nothing to lose: who mends a description or a file after a first error just goes on.
            shutil.rmtree(self.work)
            self.work.mkdir()
            self._begin(state, sizes)
            return sizes
        earlier: dict[str, int] = found["sizes"]
        return earlier

    def _begin(self, state: Path, sizes: dict[str, int]) -> None:
        write_json(state, {**self.identity, "times": self._times, "sizes": sizes})

    def _check_same(self, found: dict[str, Any]) -> None:
        advice = f"go back to them, or remove {self.folder} to start again"
        self._compare(found, f"{self.folder} holds an unfinished prep", advice)
        if found["times"] != self._times:
            raise SlimtabError(
                f"a raw file changed after {self.folder} was begun; remove that folder to start again"
            )

    def _holds_rows(self) -> bool:
        """Whether a run before got as far as a row, or further."""
        whole = (self.folder / MANIFEST).exists()
        return whole or any(Chunk.load(path).rows for path in sorted(self.work.glob("chunk-*.arrow")))

    def publish(self) -> None:
        """Remove the intermediate files and rename the finished folder to OUT."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.folder.rename(self.out)
        parent = os.open(self.out.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)

    def close(self) -> None:
        """Let other processes in."""
        os.close(self._lock)

    def _compare(self, found: dict[str, Any], what: str, advice: str) -> None:
        for key, value in self.identity["settings"].items():
            other = found.get("settings", {}).get(key)
            if other != value:  # a description of columns is known by its hash, which says nothing to people
                named = key == "columns"
                other_one = "another column description" if named else f"{key} {other} instead of {value}"
                raise SlimtabError(f"{what} with {other_one}; {advice}")
        if found.get("sources") != self.identity["sources"]:
            raise SlimtabError(f"{what} of other raw files, or they changed since; {advice}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, complete or not at all."""
    with written(path) as beside:
        beside.write_text(
            json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SlimtabError(f"{path} is damaged ({error}); remove {path.parent} and prepare again") from error
    return content
