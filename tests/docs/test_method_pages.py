"""Every registered method has a page that says where it comes from and what can be set."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from slimtab.cli import _parser
from slimtab.config import load_config
from slimtab.tables.base import methods

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "methods"
OURS = {name: table for name, table in methods().items() if table.__module__.startswith("slimtab.")}


def read(path):
    return path.read_text(encoding="utf-8")


def options(table):
    """Fields of a method's config that the budget does not choose, with their defaults."""
    kind = table.Config
    return {f.name: f.default for f in dataclasses.fields(kind) if f.name not in kind.by_budget}


@pytest.mark.parametrize("name", OURS)
class TestPages:
    def test_paper_is_named(self, name):
        """As `slimtab methods` names it, so that a reader who comes from there finds it."""
        page = " ".join(read(PAGES / f"{name}.md").split())
        for paper in OURS[name].paper.split("; "):
            assert paper in page.partition("**Paper**")[2]

    def test_says_when_it_wins_and_when_it_loses(self, name):
        """A page that only praises helps nobody to choose."""
        page = read(PAGES / f"{name}.md")
        for part in ("**Stored**", "**Wins**", "**Loses**", "**Traps**"):
            assert part in page

    def test_command_is_one_the_program_takes(self, name):
        """A reader copies it: its method, its settings and their types are right."""
        (block,) = re.findall(r"```bash\n(.*?)```", read(PAGES / f"{name}.md"), flags=re.DOTALL)
        args, more = _parser().parse_known_args(shlex.split(block)[1:])
        assert args.method == name
        given = load_config(None, {}, [*args.settings, *more]).table.options
        known = options(OURS[name])
        assert given.keys() <= known.keys()
        assert all(type(value) is type(known[option]) for option, value in given.items())


def test_index_lists_them_under_their_class():
    """One list for all, by the class that `slimtab methods` shows."""
    headings = {"static sharing": "Static sharing", "dynamic sharing": "Dynamic sharing"}
    headings |= {"none": "The yardstick", "quantised": "Quantised", "width": "Width", "pruned": "Pruned"}
    parts = re.split(r"^\*\*(.+?)\*\*", read(PAGES / "index.md"), flags=re.MULTILINE)
    listed = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name, table in OURS.items():
        assert f"[{name}]({name}.md)" in listed[headings[table.kind]]


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", read(page)):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_has_a_line_for_each():
    """The table of the README is where a reader chooses what to look at."""
    listed = re.findall(r"^\| `([\w-]+)` \|", read(ROOT / "README.md"), flags=re.MULTILINE)
    assert set(OURS) <= set(listed)
    assert len(set(listed)) == len(listed)
    assert all((PAGES / f"{name}.md").exists() for name in listed)
