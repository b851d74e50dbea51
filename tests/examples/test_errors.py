"""An example ends with one line when its user is wrong, and with a traceback when we are."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    ended = run(str(EXAMPLES / "criteo_train.py"), "--data", str(tmp_path / "none.tsv"))
    assert ended.returncode == 1
    assert ended.stderr.startswith("slimtab: ")
    assert ended.stderr.count("\n") == 1


def test_a_bug_is_shown_whole() -> None:
    ended = run("-c", "from slimtab.errors import one_line_errors; one_line_errors(); [][0]")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "IndexError" in ended.stderr
