"""Time several trainers side by side, in turns, so that a machine that drifts slows all of them alike.

Each contender is a process of its own (its own interpreter and packages) that speaks the lines described in
worker.py. In a round every contender runs a few steps while the others wait; a ratio is taken inside one
round, never between runs.

    python benchmarks/interleave.py --reference dense \\
        "dense=.venv/bin/python benchmarks/train_slimtab.py --method none" \\
        "fuxictr=benchmarks/peers/.venv-fuxictr/bin/python benchmarks/peers/train_fuxictr.py --ids 500000"
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import TextIO


@dataclass
class Result:
    """What one contender did: a step's milliseconds in each round, its last loss, its peak memory (MiB).

    `failure` is the last line of one that broke down; its other figures then mean nothing.
    """

    name: str
    label: str = ""
    step_ms: list[float] = field(default_factory=list)
    loss: float = math.nan
    rss_mb: float = math.nan
    failure: str = ""

    def ratios(self, reference: "Result") -> list[float]:
        """Per round: this contender's time over the reference's (above 1 is slower)."""
        return [own / other for own, other in zip(self.step_ms, reference.step_ms, strict=True)]


class Worker:
    """A running contender, made by `started`."""

    def __init__(self, name: str, process: subprocess.Popen, log: TextIO, timeout: float):
        self.name = name
        self._process = process
        self._log = log
        self._timeout = timeout

    def ready(self) -> dict:
        """Wait until the model is built; the worker's greeting."""
        return self._read()

    def step(self, count: int) -> dict:
        """Train `count` steps; the worker's own account of them."""
        try:
            self.send(f"step {count}")
        except OSError:
            raise self._failure() from None
        return self._read()

    def send(self, line: str) -> None:
        """Write one line of the protocol."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict:
        watchdog = threading.Timer(self._timeout, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise self._failure()
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            raise RuntimeError(f"{self.name} said {line.strip()!r}, which is not JSON") from None

    def _failure(self) -> RuntimeError:
        status = self._process.wait()
        self._log.seek(0)
        tail = "".join(self._log.readlines()[-20:])
        return RuntimeError(
            f"{self.name} stopped with status {status} (limit per turn: {self._timeout:.0f} s):\n{tail}"
        )


@contextmanager
def started(name: str, command: Sequence[str], timeout: float) -> Iterator[Worker]:
    """Start a contender; on the way out it is told to quit, and killed if it does not."""
    # Its standard error goes to a file: a pipe that nobody reads could fill up and block it.
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        worker = Worker(name, process, log, timeout)
        try:
            yield worker
        finally:
            try:
                worker.send("quit")
                process.wait(timeout=10)
            except (OSError, subprocess.TimeoutExpired):
                process.kill()
            with suppress(OSError):  # a line that a dead worker never took is still in the buffer
                process.stdin.close()


def interleave(
    contenders: Mapping[str, Sequence[str]],
    rounds: int = 5,
    steps: int = 10,
    warmup: int = 3,
    settle: int = 1,
    timeout: float = 600.0,
    keep_going: bool = False,
) -> dict[str, Result]:
    """Run the contenders (name → command line) in turns: A B C A B C …

    `warmup` untimed steps come first (optimizer state is made in the first one). Each turn then begins with
    `settle` untimed steps, since a worker that sat idle wakes with cold caches and sleeping threads. With
    `keep_going` a contender that breaks down is left out of the turns and the others go on.
    """
    if not contenders or rounds < 1 or steps < 1:
        raise ValueError("give at least one contender, one round and one step")
    results = {name: Result(name) for name in contenders}

    @contextmanager
    def guarded(name: str) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError) as error:
            if not keep_going:
                raise
            results[name].failure = str(error).strip().splitlines()[-1]
            print(f"{name} failed: {error}", file=sys.stderr)

    with ExitStack() as stack:
        workers = [
            stack.enter_context(started(name, command, timeout)) for name, command in contenders.items()
        ]
        for worker in workers:
            with guarded(worker.name):
                results[worker.name].label = worker.ready()["ready"]
                if warmup:
                    worker.step(warmup)
        for number in range(1, rounds + 1):
            for worker in workers:
                result = results[worker.name]
                if result.failure:
                    continue
                with guarded(worker.name):
                    if settle:
                        worker.step(settle)
                    answer = worker.step(steps)
                    result.step_ms.append(1000 * answer["seconds"] / answer["steps"])
                    result.loss, result.rss_mb = answer["loss"], answer["rss_mb"]
                    if not math.isfinite(result.loss):
                        raise RuntimeError(f"{worker.name}: loss is {result.loss} in round {number}")
            _progress(number, rounds, results)
    return results


def markdown(results: Mapping[str, Result], reference: str, batch: int = 4096) -> str:
    """A table: median step, its spread, rows/s, peak memory, and the ratio to `reference` by round."""
    if reference not in results:
        raise ValueError(f"no contender is called {reference!r}; there are {', '.join(results)}")
    if results[reference].failure:
        raise ValueError(f"{reference} failed, so there is nothing to compare with")
    lines = [
        "| contender | what ran | ms/step, median | min–max | rows/s "
        f"| time / {reference}, median | min–max | peak MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for result in results.values():
        if result.failure:
            continue
        times, ratios = result.step_ms, result.ratios(results[reference])
        cells = [
            result.name,
            result.label,
            f"{median(times):.1f}",
            f"{min(times):.1f}–{max(times):.1f}",
            f"{1000 * batch / median(times):,.0f}",
            f"{median(ratios):.2f}",
            f"{min(ratios):.2f}–{max(ratios):.2f}",
            f"{result.rss_mb:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    failed = [f"- {result.name} failed: {result.failure}" for result in results.values() if result.failure]
    return "\n".join([*lines, *([""] if failed else []), *failed])


def _progress(number: int, rounds: int, results: Mapping[str, Result]) -> None:
    times = "  ".join(
        f"{result.name} {result.step_ms[-1]:.1f} ms" for result in results.values() if not result.failure
    )
    print(f"round {number}/{rounds}  {times}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time trainers in turns and print a Markdown table.")
    parser.add_argument("contenders", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--reference", help="contender the ratios are taken to (default: the first)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="timed steps per turn")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--settle", type=int, default=1, help="untimed steps at the start of each turn")
    options = parser.parse_args()
    contenders = {}
    for text in options.contenders:
        name, equals, command = text.partition("=")
        if not equals or not command.strip() or name in contenders:
            parser.error(f"{text!r}: write NAME=COMMAND, each name once")
        contenders[name] = shlex.split(command)
    reference = options.reference or next(iter(contenders))
    if reference not in contenders:
        parser.error(f"--reference {reference}: no such contender")
    try:
        results = interleave(contenders, options.rounds, options.steps, options.warmup, options.settle)
    except (RuntimeError, OSError) as error:
        sys.exit(f"interleave: {error}")
    print(markdown(results, reference))


if __name__ == "__main__":
    main()
