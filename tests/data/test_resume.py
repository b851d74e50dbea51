"""kill -9 at any point: the same command finishes, and the dataset is the same to the byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prep_helpers import criteo_file, criteo_lines, digest

from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.errors import SlimtabError

# The process kills itself in the middle of its n-th write, after the bytes and before the rename; small
# blocks and shards make many writes of few rows.
PREP = """
import os, signal, sys
from pathlib import Path
from slimtab import files
from slimtab.data import manifest, prepare, shards
prepare.BLOCK_BYTES, prepare._TOKEN_COST, shards.SHARD_ROWS = 40_000, 1_000_000, 500
raw, out, options, writes = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3]), int(sys.argv[4])
left, fsync = [writes], os.fsync
def counted(number):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(number)
files.os.fsync = counted
if writes < 0:
    rmtree = manifest.shutil.rmtree
    def half(path, **_):
        next(path.glob("chunk*")).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    manifest.shutil.rmtree = half
prepare.prepare(raw, out, prepare.PrepOptions(**options), progress=False)
"""


def run(raw: Path, out: Path, options: dict[str, object], writes: int) -> int:
    command = [sys.executable, "-c", PREP, str(raw), str(out), repr(options), str(writes)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode


@pytest.mark.parametrize(
    ("options", "writes_until_kill"),
    [
        # Of 139 and of 35 writes; -1 kills while the intermediate files are being removed.
        ({"kind": "criteo"}, (2, 15, 70, 46, -1)),
        ({"kind": "criteo", "ids": "hash", "numeric": "standard", "split": "random"}, (2, 15, 12, -1)),
    ],
    ids=["vocab", "hash"],
)
def test_killed_again_and_again_the_dataset_is_identical(
    tmp_path: Path, options: dict[str, object], writes_until_kill: tuple[int, ...]
) -> None:
    lines = criteo_lines(3000, tokens=500)
    lines[700] = lines[2500] = "malformed"
    raw, out = criteo_file(tmp_path, lines), tmp_path / "out"
    assert run(raw, tmp_path / "whole", options, 0) == 0
    expected = digest(tmp_path / "whole")
    assert len([name for name in expected if name.startswith("train/")]) == 5
    for number, writes in enumerate(writes_until_kill):
        memory = "300MB" if number % 2 else "2GB"
        assert run(raw, out, {**options, "max_memory": memory}, writes) == -signal.SIGKILL
        assert not out.exists()
    assert run(raw, out, options, 0) == 0
    assert digest(out) == expected
    assert not out.with_name("out.partial").exists()


def test_killed_from_outside_while_reading_gzip(tmp_path: Path) -> None:
    import gzip

    raw = tmp_path / "rows.tsv.gz"
    raw.write_bytes(gzip.compress("\n".join(criteo_lines(2500)).encode()))
    options: dict[str, object] = {"kind": "criteo"}
    assert run(raw, tmp_path / "whole", options, 0) == 0
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", PREP, str(raw), str(out), repr(options), "0"])
    deadline = time.monotonic() + 60
    while (
        not (tmp_path / "out.partial" / "work" / "chunk-00000-000003.arrow").exists()
        and time.monotonic() < deadline
    ):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert run(raw, out, options, 0) == 0
    assert digest(out) == digest(tmp_path / "whole")


def test_what_may_not_change_between_kill_and_resume(tmp_path: Path) -> None:
    raw, out = criteo_file(tmp_path), tmp_path / "out"
    assert run(raw, out, {"kind": "criteo"}, 8) == -signal.SIGKILL
    with pytest.raises(
        SlimtabError, match=r"unfinished prep with numeric log1p instead of bucket; .*out.partial"
    ):
        prepare(raw, out, PrepOptions("criteo", numeric="bucket"), progress=False)
    stat = raw.stat()
    os.utime(raw, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(SlimtabError, match="a raw file changed"):
        prepare(raw, out, PrepOptions("criteo"), progress=False)
    raw.write_text(raw.read_text() + criteo_lines(1)[0] + "\n")
    with pytest.raises(SlimtabError, match="other raw files, or they changed"):
        prepare(raw, out, PrepOptions("criteo"), progress=False)


def test_after_a_first_error_one_mends_and_goes_on(tmp_path: Path) -> None:
    """As long as no row was read there is nothing to lose: neither settings nor the file must stay."""
    lines = criteo_lines(500)
    raw, out = criteo_file(tmp_path, [line.replace("\t", ",") for line in lines]), tmp_path / "out"
    with pytest.raises(SlimtabError, match="500 of 500 rows are malformed"):
        prepare(raw, out, PrepOptions("criteo"), progress=False)
    assert out.with_name("out.partial").exists()
    criteo_file(tmp_path, lines)
    prepare(raw, out, PrepOptions("criteo", numeric="bucket"), progress=False)
    prepare(raw, tmp_path / "fresh", PrepOptions("criteo", numeric="bucket"), progress=False)
    assert digest(out) == digest(tmp_path / "fresh")


def test_two_preps_never_write_one_dataset(tmp_path: Path) -> None:
    raw, out = criteo_file(tmp_path), tmp_path / "out"
    script = (
        "import sys, time; from pathlib import Path; from slimtab.data.manifest import Workspace;"
        "from slimtab.data.options import PrepOptions; raw, out = map(Path, sys.argv[1:]);"
        "Workspace(out, PrepOptions('criteo'), (raw,)).open({'block_bytes': 2**20, 'tokens': 1000});"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(raw), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(SlimtabError, match="another prep is writing"):
        prepare(raw, out, PrepOptions("criteo"), progress=False)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    prepare(raw, out, PrepOptions("criteo", max_memory="1GB"), progress=False)
    assert out.exists()
