"""``slimtab methods``: every registered method, where it comes from and how small it gets."""

from __future__ import annotations

import argparse
from typing import Any

from slimtab.cli.render import columns

HELP = "list the compression methods"
EXAMPLE = "slimtab methods --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments (none beyond the common ones)."""


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return name, class, paper, smallest share and stages of each method."""
    from slimtab.plan import describe_methods

    listed = describe_methods()
    if not args.json:
        lines = [("method", "class", "smallest share", "paper")] + [
            (m["name"], m["class"], f"{m['smallest_share']:.2g}", m["paper"]) for m in listed
        ]
        print(columns(lines))
        print("smallest share: of the full tables of Criteo Kaggle's 26 features (33.8 M ids) at width 16")
    return listed
