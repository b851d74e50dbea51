"""Training speed of slimtab against the network alone, fbgemm and the peers, in one interleaved run each.

    python benchmarks/train.py                    0.5 M and 3.6 M ids, writes benchmarks/results/train.md
    python benchmarks/train.py --no-peers         without FuxiCTR, DeepCTR-Torch and torchrec

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, nargs="+", default=[500_000, 3_600_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "train.md")
    options = parser.parse_args()
    parts = [
        "# Training speed\n",
        f"{datetime.date.today()}, {os.cpu_count()} cores.",
        f"`python benchmarks/{shlex.join(['train.py', *sys.argv[1:]])}`\n",
        "DeepFM, width 16, MLP 400×3, batch 4096, 13 numeric and 26 one-hot features. Contenders take turns",
        "inside one run; ratios are taken within a round. `network` is the same network fed embeddings made",
        "beforehand: the floor.\n",
    ]
    for ids in options.ids:
        results = interleave(contenders(ids, not options.no_peers), options.rounds, options.steps)
        parts += [f"## {ids:,} ids\n", markdown(results, "network") + "\n"]
        parts += ["Against slimtab's full table:\n", markdown(results, "full") + "\n"]
    text = "\n".join(parts)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
