"""Threads, processes and a cluster make the same dataset; who is killed leaves nobody behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prep_helpers import criteo_file, criteo_lines, digest

from slimtab.data import prepare as module
from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.errors import SlimtabError

OPTIONS = [{}, {"ids": "hash", "numeric": "standard", "split": "random"}]


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of Criteo Terabyte's names, one of them with a malformed line."""
    folder = tmp_path_factory.mktemp("days")
    for day in range(4):
        lines = criteo_lines(700 + day, seed=day, tokens=300)
        if day == 2:
            lines[5] = "malformed"
        criteo_file(folder, lines, f"day_{day}")
    return folder


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a Dask cluster of two processes."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 30_000)


@pytest.mark.parametrize("options", OPTIONS, ids=["vocab", "hash"])
def test_processes_and_clusters_make_what_threads_make(
    days: Path, scheduler: str, tmp_path: Path, options: dict[str, str]
) -> None:
    prepare(days, tmp_path / "threads", PrepOptions("criteo", **options), progress=False)
    expected = digest(tmp_path / "threads")
    assert len(expected) > (25 if not options else 5)
    for name, engine in {"processes": {"workers": 2}, "dask": {"dask": scheduler}}.items():
        prepare(days, tmp_path / name, PrepOptions("criteo", **options, **engine), progress=False)
        assert digest(tmp_path / name) == expected


def test_killed_with_its_processes_it_goes_on(days: Path, tmp_path: Path) -> None:
    """Workers end with the process that started them; another engine takes up what is there."""
    script = (
        "import sys; from pathlib import Path; from slimtab.data import prepare as p\n"
        "p.BLOCK_BYTES = 30_000\n"
        "if __name__ == '__main__': p.prepare(Path(sys.argv[1]), Path(sys.argv[2]), "
        "p.PrepOptions('criteo', workers=2), progress=False)"
    )
    program = tmp_path / "program.py"
    program.write_text(script)
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, str(program), str(days), str(out)], start_new_session=True)
    work = tmp_path / "out.partial" / "work"
    deadline = time.monotonic() + 60
    while not any(work.glob("chunk-*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(process.pid)
    assert not out.exists()
    prepare(days, out, PrepOptions("criteo"), progress=False)
    prepare(days, tmp_path / "whole", PrepOptions("criteo"), progress=False)
    assert digest(out) == digest(tmp_path / "whole")


def members(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, own = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if own == str(session) and state != "Z":
                found.append(int(entry.name))
    return found


def test_mistakes_are_explained(days: Path, tmp_path: Path) -> None:
    with pytest.raises(SlimtabError, match="no Dask scheduler answers"):
        prepare(days, tmp_path / "a", PrepOptions("criteo", dask="tcp://127.0.0.1:9"), progress=False)
    with pytest.raises(SlimtabError, match="left out where dask has workers"):
        PrepOptions("criteo", workers=2, dask="tcp://127.0.0.1:9")
    with pytest.raises(SlimtabError, match="prep needs"):
        prepare(days, tmp_path / "b", PrepOptions("criteo", workers=8, max_memory="1GB"), progress=False)
    with pytest.raises(SlimtabError, match="sports rows are one small file"):
        PrepOptions("sports", workers=2)


def test_what_a_process_cannot_read_is_named(days: Path, tmp_path: Path) -> None:
    """An error in a worker arrives as the one line it is."""
    import gzip

    folder = tmp_path / "days"
    folder.mkdir()
    packed = gzip.compress((days / "day_0").read_bytes())
    (folder / "day_0.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SlimtabError, match="ends too early"):
        prepare(folder, tmp_path / "out", PrepOptions("criteo", workers=2), progress=False)
