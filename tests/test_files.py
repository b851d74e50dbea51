"""A file is whole or absent, whatever happens while it is written."""

import os
import subprocess
import sys

import pytest

from slimtab.errors import SlimtabError
from slimtab.files import locked, write_errors_explained, written, written_folder


def test_the_file_stands_there_after_the_block_alone(tmp_path):
    """A reader never sees half of it."""
    path = tmp_path / "a.json"
    with written(path) as beside:
        beside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    """And nothing beside it, also when somebody pressed Ctrl-C."""
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail():
        with written(path) as beside:
            beside.write_text("ha")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    """After a power cut the new name must not hold nothing."""
    path, synced = tmp_path / "a.json", []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(path.exists()))
    with written(path) as beside:
        beside.write_text("whole")
    assert synced == [False]


def test_the_first_error_is_the_one_shown(tmp_path):
    """Where nothing could be written there is nothing to remove, which is no error of its own."""
    with pytest.raises(FileNotFoundError) as caught, written(tmp_path / "absent" / "a.json") as beside:
        beside.write_text("whole")
    assert caught.value.__context__ is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(SlimtabError, match=f"cannot write in {tmp_path}"), write_errors_explained(tmp_path):
        raise PermissionError("no")


def test_a_lock_dies_with_its_process(tmp_path):
    """However it dies: a lock that outlived kill -9 would lock its owner out."""
    code = "import sys, time; from pathlib import Path; from slimtab.files import locked\n"
    code += "with locked(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"in\n"
    with pytest.raises(SlimtabError, match=f"process {holder.pid}"), locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path):
        pass


def test_a_folder_is_replaced_when_it_is_whole(tmp_path):
    """And what a killed attempt left beside it is not part of the next one."""
    path, left = tmp_path / "out", tmp_path / "out.tmp"
    for place in (path, left):
        place.mkdir()
        (place / "old").write_text("old")
    with written_folder(path) as beside:
        (beside / "new").write_text("new")
        assert [entry.name for entry in path.iterdir()] == ["old"]
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("old")

    def fail():
        with written_folder(path) as beside:
            (beside / "new").write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]
