"""Peak memory does not follow the size of the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slimtab.data.synthetic import write_criteo

PEAK = """
import sys
from pathlib import Path
from slimtab.data.prepare import PrepOptions, prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]), PrepOptions("criteo", max_memory="256MB"), progress=False)
# Not getrusage: its peak counts what the parent held when it started this process.
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_is_bounded(tmp_path: Path) -> None:
    peaks = []
    for rows in (50_000, 250_000):
        raw = tmp_path / f"{rows}.tsv.zst"
        write_criteo(raw, rows)
        command = [sys.executable, "-c", PEAK, str(raw), str(tmp_path / f"out{rows}")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 300 * 10**6
