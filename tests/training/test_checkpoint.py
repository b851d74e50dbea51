"""Checkpoints: whole or not there, no code in them, and damage is said in one line."""

import json
import os
import stat

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from slimtab.errors import SlimtabError
from slimtab.training import checkpoint
from slimtab.training.checkpoint import latest_checkpoint, read_tensors, save_checkpoint, write_tensors

TENSORS = {
    "weights": torch.randn(7, 3),
    "ids": torch.tensor([2**63 - 1, -5]),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "generator": torch.get_rng_state(),
    "empty": torch.empty(0, 4),
}
STATE = {"step": 7, "best": None, "lr": [1e-3, 0.1 + 0.2], "loader": {"epoch": 1}, "name": "ü"}


def test_round_trip_is_exact(tmp_path):
    """Every bit: a resumed run must not differ from an uninterrupted one."""
    write_tensors(tmp_path / "a" / "c.safetensors", TENSORS, STATE)
    tensors, state = read_tensors(tmp_path / "a" / "c.safetensors")
    assert state == STATE
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_views_are_written_whole(tmp_path):
    """safetensors refuses memory that is shared or strided; state_dicts hold such tensors."""
    base = torch.arange(24.0).view(4, 6)
    write_tensors(tmp_path / "c", {"columns": base[:, :2], "transposed": base.t(), "base": base}, {})
    tensors, _ = read_tensors(tmp_path / "c")
    assert torch.equal(tensors["columns"], base[:, :2])
    assert torch.equal(tensors["transposed"], base.t())


def test_the_file_is_plain_safetensors(tmp_path):
    """No pickle: other tools can open it, and opening it runs nothing."""
    write_tensors(tmp_path / "c", TENSORS, STATE)
    with safe_open(tmp_path / "c", framework="pt") as file:
        assert json.loads(file.metadata()["slimtab"]) == STATE
    assert set(safetensors.torch.load_file(tmp_path / "c")) == set(TENSORS)


def test_others_may_read_it(tmp_path):
    """Runs are shared; safetensors alone would make the file its owner's only."""
    write_tensors(tmp_path / "c", TENSORS, STATE)
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) & stat.S_IROTH


def damaged_forms(whole):
    """What a crash, a full disk or a bad copy leaves behind."""
    return {
        "empty": b"",
        "cut in the header": whole[:20],
        "cut in the tensors": whole[:-10],
        "cut short by half": whole[: len(whole) // 2],
        "another file": b"PK\x03\x04" + b"\0" * 200,
        "header length nonsense": b"\xff" * 8 + whole[8:],
    }


@pytest.mark.parametrize("kind", list(damaged_forms(b"")))
def test_damage_is_one_line_that_says_what_to_do(tmp_path, kind):
    """Issue 2: never a traceback for a file that an interrupted copy has cut."""
    path = tmp_path / "step-0000000001.safetensors"
    write_tensors(path, TENSORS, STATE)
    path.write_bytes(damaged_forms(path.read_bytes())[kind])
    with pytest.raises(SlimtabError, match=r"is missing or damaged .*delete it") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


def test_a_file_of_somebody_else(tmp_path):
    """A safetensors file without our header is no checkpoint."""
    safetensors.torch.save_file(TENSORS, tmp_path / "c")
    with pytest.raises(SlimtabError, match="missing or damaged"):
        read_tensors(tmp_path / "c")


def test_a_missing_file(tmp_path):
    """Named, with its path."""
    with pytest.raises(SlimtabError, match="nowhere"):
        read_tensors(tmp_path / "nowhere")


@pytest.mark.parametrize("failing", ["save_file", "fsync"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, failing):
    """A full disk in the middle of a checkpoint costs the new one, not the old one."""
    path = tmp_path / "c.safetensors"
    write_tensors(path, TENSORS, STATE)
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        if failing == "save_file":
            args[1].write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((checkpoint, "save_file") if failing == "save_file" else (os, "fsync")), full_disk)
    with pytest.raises(SlimtabError, match=r"cannot write .*No space left.*free some space"):
        write_tensors(path, {"x": torch.zeros(3)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_folder_is_one_line(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(SlimtabError, match="cannot write"):
        write_tensors(tmp_path / "runs" / "c", TENSORS, STATE)


def test_the_newest_two_are_kept(tmp_path):
    """One more than the newest, in case that is damaged from outside; not all of them."""
    for step in (5, 20, 100, 1_000_000):
        save_checkpoint(tmp_path, step, TENSORS, {"step": step})
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["step-0000000100.safetensors", "step-0001000000.safetensors"]
    assert read_tensors(latest_checkpoint(tmp_path))[1]["step"] == 1_000_000


def test_leftovers_of_an_interrupted_write_do_not_count(tmp_path):
    """kill -9 while writing leaves a .tmp file behind."""
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None
    save_checkpoint(tmp_path, 5, TENSORS, {})
    (tmp_path / "step-0000000009.safetensors.tmp").write_bytes(b"half")
    assert latest_checkpoint(tmp_path).name == "step-0000000005.safetensors"
