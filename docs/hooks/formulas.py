"""Formulas: ```` ```math ```` blocks become MathML while the site is built.

Browsers set MathML themselves: no script and no font has to be fetched. GitHub shows the same blocks.
"""

from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give the ``math`` fence its formatter."""
    fence = {"name": "math", "class": "formula", "format": formula}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def formula(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    """Return a block of MathML for a formula in LaTeX."""
    return f'<div class="{css_class}">{convert(source, display="block")}</div>'
