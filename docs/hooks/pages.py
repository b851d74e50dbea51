"""What the site shows that lies elsewhere: the README, and the figures beside the benchmarks that made them.

In the repository links lead to where the files lie; here they are turned to where the site has them. Pages of
methods and of figures enter the menu by being there.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from slimtab.tables.base import methods

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "benchmarks" / "results"
_HOME = (("](docs/", "]("), ("](benchmarks/results/", "](results/"))
_ROLE = re.compile(r":(?:class|meth|func|data):\s*<code>~?(?:[\w.]+\.)?(\w+)</code>")
_KINDS = ("static sharing", "dynamic sharing", "quantised", "width", "pruned")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the patterns of the menu: methods by class of what they do, and all figures."""
    for section in config.nav or []:
        for title, pages in section.items():
            if pages == "results/*.md":
                section[title] = [f"results/{page.name}" for page in sorted(FIGURES.glob("*.md"))]
            elif "methods/*.md" in pages:
                section[title] = [page for page in pages if page != "methods/*.md"] + _by_kind()
    return config


def _by_kind() -> list[dict[str, Any]]:
    kinds = {name: table.kind for name, table in methods().items()}
    pages = {name: f"methods/{name}.md" for name in kinds}
    ours = [{name: pages[name]} for name, kind in kinds.items() if kind == "none"]
    groups = [
        {kind.capitalize(): [{name: pages[name]} for name in kinds if kinds[name] == kind]} for kind in _KINDS
    ]
    return [*ours, *groups]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README, and every page of figures."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=readme))
    for page in FIGURES.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        files.append(File.generated(config, f"results/{page.name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links; keep a figure and its spread in one line of a table's cell."""
    if page.file.src_uri == "index.md":
        for here, there in _HOME:
            markdown = markdown.replace(here, there)
        return markdown
    if page.file.src_uri.startswith("results/"):
        markdown = markdown.replace("](../../docs/", "](../")  # pictures
        return markdown.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").replace(
            " %", "\N{NO-BREAK SPACE}%"
        )
    return markdown.replace("../benchmarks/results/", "results/").replace("](../README.md)", "](index.md)")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show the roles of docstrings as the name they mean."""
    return _ROLE.sub(r"<code>\1</code>", html)
