"""Files and folders that are either whole or absent: written beside and renamed into place."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slimtab.errors import SlimtabError
from slimtab.sizes import format_bytes

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well, the file stands complete at ``path``.

    When it does not, what was begun is removed, and what stood at ``path`` before stays.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to show
            beside.unlink()
        raise


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends well, it takes the place of what was at ``path``.

    When it does not, what was begun is removed, and what stood at ``path`` before stays.
    """
    beside = path.with_name(path.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        shutil.rmtree(path, ignore_errors=True)
        beside.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def write_errors_explained(folder: Path) -> Iterator[None]:
    """Turn "no space left" and "permission denied" into a line that says what to do.

    Raises:
        SlimtabError: when the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise SlimtabError(f"cannot write in {folder} ({error}); choose another place") from error
        free = format_bytes(shutil.disk_usage(folder).free)
        raise SlimtabError(
            f"the disk of {folder} is full ({free} left); free some space and run the same command again, "
            "it goes on where it stopped"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep all other processes out of a folder; the kernel lets go when this one dies, however it dies.

    Raises:
        SlimtabError: when another process is in it, which is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise SlimtabError(
                f"{folder} is being trained by process {file.read().strip()}; wait for it to end, or stop it"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
