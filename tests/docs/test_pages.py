"""The site: what classes say reaches their pages, formulas are set, no link is dead, nothing is fetched."""

import importlib.util
import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import PluginError

from slimtab.tables.base import methods

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def hook(name):
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Page:
    """As much of MkDocs' page as the hooks look at."""

    def __init__(self, path):
        self.file = self
        self.src_uri = path


class TestFacts:
    def test_a_page_gets_what_its_class_says(self):
        facts = hook("facts")
        page = facts.on_page_markdown(f"# qr\n\n{facts.PLACE}\n", Page("methods/qr.md"), None, None)
        assert "Shi et al., KDD 2020" in page
        assert "| `mode` | `mult` |" in page
        assert "| 10% | 216 MB | 10.00% | 230 MB |" in page

    def test_a_method_of_one_size_has_one_line(self):
        assert "| its own size | 540 MB | 25.00% |" in hook("facts")._bytes("int8")

    def test_a_page_without_a_place_fails(self):
        with pytest.raises(PluginError, match="no place"):
            hook("facts").on_page_markdown("# qr\n", Page("methods/qr.md"), None, None)

    @pytest.mark.parametrize("name", methods())
    def test_every_option_has_a_meaning(self, name):
        """Its config's docstring says it, or that of the config it inherits from."""
        assert hook("facts")._options(methods()[name])

    def test_other_pages_are_left_alone(self):
        assert hook("facts").on_page_markdown("# Bytes", Page("bytes.md"), None, None) == "# Bytes"


class TestFormulas:
    @pytest.mark.parametrize("page", sorted((DOCS / "methods").glob("*.md")), ids=lambda page: page.stem)
    def test_every_method_has_one_that_can_be_set(self, page):
        """A command that the converter does not know is left in the text with its backslash."""
        found = re.findall(r"```math\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert found or page.stem == "index"
        for source in found:
            html = hook("formulas").formula(source, "math", "formula", {}, None)
            assert html.startswith('<div class="formula"><math')
            assert "\\" not in html


def test_every_method_is_named_in_the_menu_once():
    names = [
        name
        for entry in hook("pages")._by_kind()
        for title, pages in entry.items()
        for name in ([title] if isinstance(pages, str) else [name for page in pages for name in page])
    ]
    assert sorted(names) == sorted(methods())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_in_the_menu(page):
    """What is not listed nobody finds."""
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(rf"(: |- ){re.escape(page.name)}$", menu, flags=re.MULTILINE)


def test_site_is_built_and_fetches_nothing(tmp_path):
    """`make docs` without the sizes, which take half a minute: a dead link fails, and a foreign script."""
    hooks = [str(DOCS / "hooks" / f"{name}.py") for name in ("pages", "formulas")]
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), hooks=hooks))  # strict: it raises
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|img|link)[^>]*(?:src|href)="https?://', html), page
        assert ":class:" not in html
        assert "</math>" in html or page.parent.name != "methods" or page.stem == "index"
