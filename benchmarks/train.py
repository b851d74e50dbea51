"""Training speed of slimtab against the network alone, fbgemm and the peers, in one interleaved run each.

    python benchmarks/train.py                    0.5 M and 3.6 M ids, writes benchmarks/results/train.md
    python benchmarks/train.py --no-peers         without FuxiCTR, DeepCTR-Torch and torchrec
    python benchmarks/train.py --methods all      every registered method against full at 25 %, at 0.5 M ids;
                                                  writes benchmarks/results/train-methods.md

Peers run in environments of their own: make them with benchmarks/peers/setup.sh.
"""

import argparse
import datetime
import os
import shlex
import sys
from pathlib import Path

from interleave import interleave, markdown

HERE = Path(__file__).resolve().parent


def contenders(ids: int, peers: bool) -> dict[str, list[str]]:
    """Command line of each contender, by name."""

    def own(*options: str) -> list[str]:
        return [sys.executable, str(HERE / "train_slimtab.py"), "--ids", str(ids), *options]

    def peer(environment: Path, script: str) -> list[str]:
        return [str(environment), str(HERE / "peers" / script), "--ids", str(ids)]

    commands = {
        "network": own("--method", "none"),
        "full": own("--method", "full"),
        "full-adagrad": own("--method", "full", "--rows", "rowwise_adagrad"),
        "unified": own("--method", "unified", "--budget", "10%"),
        "hash": own("--method", "hash", "--budget", "10%"),
        "fbgemm": own("--method", "fbgemm"),
    }
    if peers:
        commands |= {
            "torchrec": peer(Path(sys.executable), "train_torchrec.py"),
            "deepctr": peer(HERE / "peers/.venv-deepctr/bin/python", "train_deepctr.py"),
            "fuxictr": peer(HERE / "peers/.venv-fuxictr/bin/python", "train_fuxictr.py"),
        }
    return commands


def method_contenders(names: list[str], ids: int, budget: str, batches: int) -> dict[str, list[str]]:
    """Command line of each method, by name; methods of several stages once more in their last."""
    from registry import chosen, nbytes
    from slimtab.tables.base import get_method
    from worker import DIM

    commands = {}
    for name in chosen(names):
        own = [sys.executable, str(HERE / "train_slimtab.py"), "--ids", str(ids), "--batches", str(batches)]
        own += ["--method", name, "--budget", str(nbytes(name, ids, DIM, budget))]
        commands[name] = own
        if len(get_method(name).stages) > 1:
            commands[f"{name}, last stage"] = [*own, "--stage", "last"]
    return commands


def time_methods(options: argparse.Namespace) -> str:
    """Every chosen method against full, in one interleaved run."""
    parts = [
        "# Training speed of the methods\n",
        f"{datetime.date.today()}, {os.cpu_count()} cores.",
        f"`python benchmarks/{shlex.join(['train.py', *sys.argv[1:]])}`\n",
        "DeepFM, width 16, MLP 400×3, batch 4096, 13 numeric and 26 one-hot features, two threads. Tables of",
        f"{options.budget} of the full table's bytes, or the least a method can make of them. Contenders",
        "take turns inside one run; ratios are taken within a round. What a method does once per epoch is",
        "left out.\n",
    ]
    for ids in options.ids or [500_000]:
        contenders = method_contenders(options.methods, ids, options.budget, batches=16)
        results = interleave(contenders, options.rounds, options.steps, keep_going=True)
        parts += [f"## {ids:,} ids\n", markdown(results, "full") + "\n"]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, nargs="+", help="default 500000 3600000; with --methods 500000")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--methods", nargs="+", help="time these methods (or all) against full, and nothing else"
    )
    parser.add_argument(
        "--budget", default="25%", help="of --methods, for those that reach it (default 25%%)"
    )
    parser.add_argument("--out", type=Path, help="default benchmarks/results/train.md, or train-methods.md")
    options = parser.parse_args()
    text = time_methods(options) if options.methods else time_peers(options)
    out = options.out or HERE / "results" / ("train-methods.md" if options.methods else "train.md")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(text)


def time_peers(options: argparse.Namespace) -> str:
    """Slimtab against the network alone, fbgemm and the peers, one interleaved run for each number of ids."""
    parts = [
        "# Training speed\n",
        f"{datetime.date.today()}, {os.cpu_count()} cores.",
        f"`python benchmarks/{shlex.join(['train.py', *sys.argv[1:]])}`\n",
        "DeepFM, width 16, MLP 400×3, batch 4096, 13 numeric and 26 one-hot features. Contenders take turns",
        "inside one run; ratios are taken within a round. `network` is the same network fed embeddings made",
        "beforehand: the floor.\n",
    ]
    for ids in options.ids or [500_000, 3_600_000]:
        results = interleave(contenders(ids, not options.no_peers), options.rounds, options.steps)
        parts += [f"## {ids:,} ids\n", markdown(results, "network") + "\n"]
        parts += ["Against slimtab's full table:\n", markdown(results, "full") + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
