"""What the README and the docs show is run or at least parsed: a reader copies it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slimtab.cli import _parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("slimtab ")]


@pytest.mark.parametrize("snippet", blocks("python"))
def test_python_snippet_runs(snippet: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", snippet], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", commands())
def test_command_is_one_the_program_takes(command: str) -> None:
    args = _parser().parse_args(shlex.split(command)[1:])
    assert callable(args.module.run)


def test_every_method_of_the_registry_has_its_line() -> None:
    from slimtab.tables.base import methods

    listed = set(re.findall(r"^\| `([\w-]+)` \|", README, flags=re.MULTILINE))
    assert listed == set(methods())


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
