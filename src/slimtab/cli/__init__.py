"""The ``slimtab`` command: one module per subcommand, imported only when it is the one asked for."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import slimtab
from slimtab.cli.render import leads
from slimtab.errors import FollowedError, SlimtabError

# Each module offers HELP, EXAMPLE, add_arguments(parser) and run(args) -> figures, or None.
_COMMANDS = (
    "prep",
    "synth",
    "plan",
    "train",
    "search",
    "sweep",
    "evaluate",
    "predict",
    "shrink",
    "export",
    "compare",
    "methods",
    "doctor",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 on success only."""
    parser = _parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    args, extra = parser.parse_known_args(arguments)
    if extra:  # argparse cannot take positional words on both sides of an option
        if not hasattr(args, "settings") or any(word.startswith("-") for word in extra):
            parser.error(f"unrecognized arguments: {' '.join(extra)}")
        args.settings += extra
    try:
        if os.environ.get("WORLD_SIZE", "1") != "1" and not args.module.__name__.endswith(".train"):
            raise SlimtabError("torchrun is for `slimtab train`; run this command without it")
        figures = args.module.run(args)
        if args.json and leads():
            print(json.dumps(_without_nan(figures)), flush=True)
    except FollowedError:  # the leading rank says it
        if args.debug:
            raise
        return 1
    except SlimtabError as error:
        if args.debug:
            raise
        print(f"slimtab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # a reader such as `head` has seen enough; Python's own flush at exit would fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("slimtab: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _without_nan(figures: Any) -> Any:
    """Return figures with null for NaN and infinity, which JSON does not know."""
    if isinstance(figures, float):
        return figures if math.isfinite(figures) else None
    if isinstance(figures, dict):
        return {key: _without_nan(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [_without_nan(value) for value in figures]
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slimtab",
        description="Make the embedding tables of click models small, and see what it costs.",
        epilog="example:\n"
        "  slimtab prep criteo train.txt data/criteo\n"
        "  slimtab train data/criteo --method unified --budget 10% --run runs/u10",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # examples are there to be copied
    )
    parser.add_argument("--version", action="version", version=slimtab.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in _COMMANDS:
        module: ModuleType = importlib.import_module(f"slimtab.cli.{name}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=textwrap.fill(module.HELP, 78),
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.add_argument(
            "--json", action="store_true", help="print figures as one JSON object on standard output"
        )
        command.add_argument("--debug", action="store_true", help="show a traceback when something fails")
        command.set_defaults(module=module)
    return parser
