"""Load on the HTTP example over loopback: 32 connections for a minute, each asking again when answered.

    python benchmarks/serve.py runs/int8/export/onnx --raw raw.tsv     adds to benchmarks/results/serving.md

Server and load share the machine's cores. Memory of the server is read twice a second; it grows if the last
quarter's median lies above that of the second.
"""

import argparse
import asyncio
import datetime
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from serving import write

HERE = Path(__file__).resolve().parent


def bodies(folder: Path, raw: Path, rows: int) -> list[bytes]:
    """Request bodies of raw rows, as a caller would send them."""
    from slimtab.data.encode import Encoder
    from slimtab.data.readers import read_raw

    schema = Encoder.load(folder / "encoder").schema
    table = next(iter(read_raw(raw, schema))).table.slice(0, 2000)
    dicts = table.to_pylist()
    return [json.dumps({"rows": dicts[n : n + rows]}).encode() for n in range(0, len(dicts) - rows, rows)]


def rss_mb(process: int) -> float:
    """Resident memory of a process, MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def load(url: str, sent: list[bytes], connections: int, seconds: float, server: int) -> dict:
    """Ask for so long; return times in seconds, failures, and the server's memory over time."""
    times: list[float] = []
    failures: list[str] = []
    memory: list[float] = []
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    end = time.perf_counter() + seconds

    async def ask(client: httpx.AsyncClient, turn: "itertools.cycle[bytes]") -> None:
        while time.perf_counter() < end:
            began = time.perf_counter()
            try:
                answer = await client.post(url + "/predict", content=next(turn))
            except httpx.HTTPError as error:
                failures.append(repr(error))
                continue
            if answer.status_code != 200:
                failures.append(f"{answer.status_code} {answer.text[:100]}")
            times.append(time.perf_counter() - began)

    async def watch() -> None:
        while time.perf_counter() < end:
            memory.append(rss_mb(server))
            await asyncio.sleep(0.5)

    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(limits=limits, headers=headers, timeout=30) as client:
        turn = itertools.cycle(sent)
        await asyncio.gather(watch(), *(ask(client, turn) for _ in range(connections)))
    return {"times": times, "failures": failures, "memory": memory}


def started(folder: Path) -> tuple[subprocess.Popen, str]:
    """Start the example on a free port and wait until it is well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = HERE.parent / "examples" / "serve.py"
    server = subprocess.Popen([sys.executable, str(script), str(folder), "--port", str(port)])
    url = f"http://127.0.0.1:{port}"
    transport = httpx.HTTPTransport(retries=12)  # the waits between them double
    with httpx.Client(transport=transport) as client:
        client.get(url + "/health").raise_for_status()
    return server, url


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="exports to serve, one after the other")
    parser.add_argument("--raw", type=Path, required=True, help="raw rows to ask about")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16], help="rows of a request")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    lines = []
    for folder in options.folders:
        card = json.loads((folder / "model.json").read_text())
        for rows in options.rows:
            sent = bodies(folder, options.raw, rows)
            server, url = started(folder)
            try:
                asyncio.run(load(url, sent, options.connections, 5, server.pid))  # arenas and caches fill
                found = asyncio.run(load(url, sent, options.connections, options.seconds, server.pid))
            finally:
                server.terminate()
                server.wait()
            times, quarter = np.array(found["times"]) * 1000, len(found["memory"]) // 4
            second, last = found["memory"][quarter : 2 * quarter], found["memory"][-quarter:]
            lines.append(
                f"| {card['format']} | {card['method']} | {rows} | {len(times):,} | {len(found['failures'])} "
                f"| {len(times) / options.seconds:,.0f} | {np.percentile(times, 50):.0f} "
                f"| {np.percentile(times, 99):.0f} | {median(second):.1f} "
                f"| {median(last) - median(second):+.1f} |"
            )
            print(lines[-1], *found["failures"][:3], sep="\n", file=sys.stderr)
    head = [
        "## HTTP\n",
        f"{datetime.date.today()}, {os.cpu_count()} cores, shared by the server and those who ask.",
        f"`python benchmarks/serve.py …`: {options.connections} connections for {options.seconds:.0f} s,",
        "after five seconds that are not counted. Growth is that of the server's memory, MiB.\n",
        "| format | method | rows a request | requests | errors | requests/s | p50 ms | p99 ms | server MiB "
        "| growth |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    write("\n".join([*head, *lines]))


if __name__ == "__main__":
    main()
