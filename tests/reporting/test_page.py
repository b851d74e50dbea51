"""The page of a comparison: whole in itself, with every contender, and nothing in it that could run."""

import re

from test_compare import RUNS, run

from slimtab.reporting.compare import best_of, contenders
from slimtab.reporting.page import write_page


def test_hull():
    """What is neither smaller nor better than another is left out; one of equals stays."""
    rows = contenders(RUNS)
    assert [(row.method, row.share) for row in best_of(rows)] == [
        ("unified", 0.02), ("unified", 0.1), ("full", 1.0)
    ]  # fmt: skip
    twice = contenders([*RUNS, run("qr", serve=20_000, auc=0.71)])
    assert len(best_of(twice)) == 3


def test_page(tmp_path):
    rows = contenders([*RUNS, run("<b>mine", auc=0.72)])
    write_page(rows, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    table = re.search(r"<table>.*</table>", text, flags=re.DOTALL)[0]
    assert table.count("<tr") == 1 + len(rows)
    assert table.count("class=hull") == 3
    assert "0.7600 ± 0.0100" in table
    assert "&lt;b&gt;mine" in table
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)  # nothing is fetched
