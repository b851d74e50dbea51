"""The commands of docs/scale.md: torchrun starts the ranks, and starts them anew when one dies."""

import json
import os
import socket
import subprocess
import sys

import pytest

import slimtab
from slimtab.cli import main

# Rank 1 of the first attempt is killed before its eleventh step.
DYING = """
import os, signal, sys
from slimtab.cli import main
from slimtab.training.trainer import Trainer

step_of = Trainer._train_step

def dying(trainer, *args):
    if trainer.step == 10 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return step_of(trainer, *args)

Trainer._train_step = dying
sys.exit(main())
"""


@pytest.mark.slow
def test_torchrun_goes_on_from_the_last_checkpoint_when_a_rank_dies(prepared, tmp_path):
    """Rows that stand on every rank and the default optimizer: nothing of fbgemm is needed."""
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    torchrun += ["--master-port", port]
    train = ["train", str(prepared.data), "--method", "unified", "--budget", "20%", f"run={tmp_path / 'run'}"]
    train += ["training.batch_size=200", "training.epochs=1", "training.checkpoint_steps=4", "--json"]
    there = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(slimtab.__path__[0])}
    done = subprocess.run(
        [*torchrun, str(script), *train], env=there, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lost another rank" in done.stderr or "SIGKILL" in done.stderr
    metrics = json.loads(done.stdout)  # one object: one rank speaks
    assert metrics["steps"] == 16
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics


def test_other_commands_are_refused_under_torchrun(monkeypatch, capsys, prepared):
    """Each rank would do all of the work, in the same folders."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["plan", str(prepared.data)]) == 1
    assert "run this command without it" in capsys.readouterr().err
