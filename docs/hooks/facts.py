"""What a method's class knows goes onto its page while the site is built: paper, stages, bytes, options."""

import dataclasses
from functools import cache
from typing import Any

from griffe import Docstring, DocstringAttribute, DocstringSectionKind
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from slimtab.data.kaggle import CRITEO_KAGGLE
from slimtab.errors import SlimtabError
from slimtab.plan import describe_methods, plan
from slimtab.schema import Feature, RawFormat, Schema
from slimtab.sizes import format_bytes
from slimtab.tables.base import EmbeddingTable, methods

BUDGETS = ("50%", "25%", "10%", "5%", "1%")
KAGGLE = Schema(
    RawFormat("criteo"), features=tuple(Feature(f"C{i}", n) for i, n in enumerate(CRITEO_KAGGLE, start=1))
)
FULL = KAGGLE.full_bytes(16)
PLACE = "<!-- facts -->"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the facts where a page of a method, or the list of them, wants them.

    Raises:
        PluginError: when a page has no place for them.
    """
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    if folder != "methods":
        return markdown
    if markdown.count(PLACE) != 1:
        raise PluginError(f"{page.file.src_uri} has no place for what the class knows: add a line {PLACE}")
    return markdown.replace(PLACE, at_a_glance() if name == "index" else facts(name))


def facts(name: str) -> str:
    """Return what the class of a method says of itself, in Markdown."""
    table = methods()[name]
    return "\n\n".join([_origin(name, table), _options(table), _bytes(name)])


def at_a_glance() -> str:
    """Return a table of all methods."""
    lines = ["| method | class | smallest size | at 10 % | stages | ids |", "|---|---|--:|--:|---|---|"]
    for name, table in methods().items():
        tenth = _planned(name, "10%")
        size = format_bytes(tenth["serve_bytes"]) if tenth else ""
        lines.append(
            f"| [{name}]({name}.md) | {_kind(table)} | {_share(_smallest()[name])} | {size} "
            f"| {' → '.join(table.stages)} | {_ids(table)} |"
        )
    return "\n".join(lines)


def _origin(name: str, table: type[EmbeddingTable]) -> str:
    smallest = _smallest()[name]
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| **class** | {_kind(table)} |",
            f"| **paper** | {table.paper} |",
            f"| **stages** | {' → '.join(table.stages)} |",
            f"| **ids** | {_ids(table)} |",
            f"| **smallest size** | {_share(smallest)} of the full tables of Criteo Kaggle at width 16: "
            f"{format_bytes(smallest * FULL)} of {format_bytes(FULL)} |",
        ]
    )


def _options(table: type[EmbeddingTable]) -> str:
    kind, meanings = table.Config, _meanings(table.Config)
    rows = [
        f"| `{field.name}` | `{_yaml(field.default)}` | {meanings[field.name]} |"
        for field in dataclasses.fields(kind)
        if field.name not in kind.by_budget
    ]
    if not rows:
        return "**Options**: none."
    head = "| option | default | meaning |\n|---|---|---|\n"
    return f"**Options**, given as `table.options.{rows[0].split('`')[1]}=…`:\n\n{head}" + "\n".join(rows)


def _bytes(name: str) -> str:
    """Return a table of what budgets give; a method of one size has one line."""
    found = {budget: _planned(name, budget) for budget in BUDGETS}
    sizes = {budget: planned for budget, planned in found.items() if planned}
    if not sizes or len({planned["serve_bytes"] for planned in sizes.values()}) == 1:
        sizes = {"its own size": plan(KAGGLE, name)}
    lines = ["| budget | serving | share | while training |", "|--:|--:|--:|--:|"]
    for budget, planned in sizes.items():
        served, held = planned["serve_bytes"], planned["train_bytes"]
        lines.append(
            f"| {budget} | {format_bytes(served)} | {_share(served / FULL)} | {format_bytes(held)} |"
        )
    what = "**Bytes** on the ids of Criteo Kaggle at width 16, as `slimtab plan` gives them"
    return f"{what} (training: with Adam's state, in the first stage):\n\n" + "\n".join(lines)


@cache
def _planned(name: str, budget: str) -> dict[str, Any] | None:
    try:
        return plan(KAGGLE, name, budget)
    except SlimtabError:  # below what the method can reach
        return None


@cache
def _smallest() -> dict[str, float]:
    return {method["name"]: method["smallest_share"] for method in describe_methods()}


def _meanings(config: type) -> dict[str, str]:
    """Return what a config's docstring, or one it inherits, says of each field."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        for section in Docstring(cls.__doc__ or "").parse("google"):
            if section.kind is DocstringSectionKind.attributes:
                attributes: list[DocstringAttribute] = section.value
                found |= {a.name: " ".join(a.description.split()).replace("``", "`") for a in attributes}
    return found


def _kind(table: type[EmbeddingTable]) -> str:
    return "the yardstick" if table.kind == "none" else table.kind


def _ids(table: type[EmbeddingTable]) -> str:
    if table.hashes_ids:
        return "numbered, or 64-bit hashes"
    return "numbered by falling frequency" if table.by_frequency else "numbered"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _share(share: float) -> str:
    return f"{share:.2%}" if share >= 1e-4 else "below 0.01%"
