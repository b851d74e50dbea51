"""What the site shows that lies elsewhere: the README, and the figures beside the benchmarks that made them.

In the repository links lead to where the files lie; here they are turned to where the site has them.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_HOME = (("](docs/", "]("), ("](benchmarks/results/", "](results/"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README, and every page of figures."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "readme.md", content=readme))
    for page in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        files.append(File.generated(config, f"results/{page.name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links."""
    if page.file.src_uri == "readme.md":
        for here, there in _HOME:
            markdown = markdown.replace(here, there)
        return markdown
    markdown = markdown.replace("](../../docs/", "](../")  # pictures on pages of figures
    return markdown.replace("../benchmarks/results/", "results/").replace("](../README.md)", "](readme.md)")
