"""Differences to the full table, paired by seed, as a table of methods × budgets."""

import csv

from slimtab.reporting.compare import contenders
from slimtab.reporting.pivot import Cell, chosen, pivot, quality, share_text, summary, write_csv

# Seeds differ by far more than methods do: only a paired difference sees the methods.
FULL_AUC = {0: 0.700, 1: 0.750, 2: 0.800}
LOSS = {0: -0.0030, 1: -0.0010, 2: -0.0020}


def run(seed, auc, serve=1000, method="full"):
    return {
        "run": f"runs/{method}-{serve}-{seed}",
        "method": method,
        "model": "deepfm",
        "dim": 16,
        "seed": seed,
        "serve_bytes": serve,
        "full_bytes": 1000,
        "train_bytes": 3000,
        "valid": {"auc": auc, "logloss": 0.5},
        "test": {"auc": auc, "logloss": 1 - auc},
        "epochs": 2.0,
        "rows_per_second": 100.0,
        "wall_seconds": 1.0,
    }


FULL = tuple(run(seed, auc) for seed, auc in FULL_AUC.items())


def hashed(seeds=(0, 1, 2), serve=100, loss=LOSS):
    return tuple(run(seed, FULL_AUC[seed] + loss[seed], serve, "hash") for seed in seeds)


class TestQuality:
    def test_a_reached_budget(self):
        """Sign, spread, and a star below five per cent."""
        assert quality(Cell("hash", "10%", hashed(), target=0.1), FULL) == "−0.0020 ± 0.0010"
        sure = {seed: -0.002 + seed * 1e-4 for seed in LOSS}
        assert quality(Cell("hash", "10%", hashed(loss=sure), target=0.1), FULL) == "−0.0019 ± 0.0001 \\*\\*"

    def test_better_has_a_plus(self):
        assert quality(Cell("a", "10%", (run(0, 0.701, 100),), target=0.1), FULL[:1]) == "+0.0010"

    def test_why_there_is_nothing(self):
        assert quality(Cell("int8", "10%", note="smallest 25 %"), FULL) == "smallest 25 %"

    def test_a_budget_left_half_empty_shows_its_share(self):
        """−0.001 at 10 % is another thing than −0.001 at a budget of 20 % of which 10 % were taken."""
        assert quality(Cell("hash", "20%", hashed((0,)), target=0.2), FULL[:1]).endswith("(10 %)")
        assert quality(Cell("hash", "own size", hashed((0,))), FULL[:1]).endswith("(10 %)")

    def test_missing_seeds_are_named(self):
        """A cell of fewer seeds than full's is less certain, and should look so."""
        assert quality(Cell("hash", "10%", hashed((0, 1)), target=0.1), FULL).endswith("[2 of 3 seeds]")

    def test_without_full_it_is_the_mean(self):
        assert quality(Cell("full", "100%", FULL, target=1.0), ()) == "0.7500 ± 0.0500"


def test_pivot():
    """Rows and columns as they come, sizes of one's own at the end, gaps left empty."""
    cells = [Cell("int8", "own size", note="a"), Cell("qr", "50%", note="b", target=0.5)]
    cells += [Cell("qr", "1%", note="c", target=0.01)]
    assert pivot(cells, lambda cell: cell.note).splitlines() == [
        "| method | 50% | 1% | own size |",
        "|---|--:|--:|--:|",
        "| int8 |  |  | a |",
        "| qr | b | c |  |",
    ]


def test_texts():
    """What stands around the table."""
    assert [share_text(share) for share in (1, 0.254, 0.0312, 0.00138)] == [
        "100 %",
        "25 %",
        "3.1 %",
        "0.14 %",
    ]
    assert chosen(Cell("qr", "1%", settings={"optimizer.rows_decay": 4, "optimizer.lr": 0.1})) == (
        "rows_decay=4, lr=0.1"
    )
    assert summary(contenders(FULL)[0]).startswith("full: test AUC 0.7500 ± 0.0500, logloss 0.2500 ± 0.0500")
    assert summary(contenders(FULL)[0]).endswith("(3 seeds)")


def test_csv(tmp_path):
    """A line per run that a spreadsheet reads back with the same figures."""
    rows = [
        {**metrics, "dataset": "d", "name": "qr-add", "budget": "10%", "tuned": {"a.b": 2}, "chosen": "yes"}
        for metrics in hashed()
    ]
    write_csv(rows, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        back = list(csv.DictReader(file))
    assert [float(line["test_auc"]) for line in back] == [row["test"]["auc"] for row in rows]
    assert back[0]["name"] == "qr-add"
    assert back[0]["settings"] == "a.b=2"
    assert float(back[0]["share"]) == 0.1
