"""``slimtab doctor``: is everything installed, and does it fit together?"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

HELP = "import all dependencies, print their versions, say how to mend what is broken"
EXAMPLE = "slimtab doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the report and return it as ``packages, problems, notes``.

    Raises:
        SlimtabError: when something that slimtab needs is broken; exit status is then not 0.
    """
    import platform

    from slimtab import __version__
    from slimtab.doctor import TESTED, examine
    from slimtab.errors import SlimtabError

    report = examine()
    if not args.json:
        print(f"slimtab {__version__}, Python {platform.python_version()}, {platform.platform()}")
        for package in report.packages:
            tested = f"(tested: {TESTED[package.name]})" if package.name in TESTED else ""
            state = "BROKEN" if package.version is None or package.fault else "ok"
            print(f"  {package.name:16} {package.version or 'absent':16} {state:6} {tested}".rstrip())
        for note in report.notes:
            print(f"note: {note}")
    if report.problems:
        raise SlimtabError("; ".join(report.problems))
    if not args.json:
        print("everything loads")
    return dataclasses.asdict(report)
