"""Runs side by side: grouped by setting, averaged over seeds, never over different data."""

import json
import statistics

import pytest

from slimtab.errors import SlimtabError
from slimtab.reporting.compare import contenders, load_runs, markdown
from slimtab.reporting.pictures import write_pictures


def run(method="unified", model="deepfm", seed=0, serve=100_000, auc=0.75, **more):
    return {
        "run": f"runs/{method}{seed}",
        "method": method,
        "model": model,
        "dim": 16,
        "seed": seed,
        "full_bytes": 1_000_000,
        "serve_bytes": serve,
        "valid": {"auc": auc, "logloss": 0.5},
        "test": {"auc": auc, "logloss": 0.5 - auc / 10, "calibration": 1.0, "rows": 10},
        "rows_per_second": 1000.0 * (seed + 1),
        "data": {"path": "d", "rows": {}, "fingerprint": "abc"},
        **more,
    }


RUNS = [
    run("unified", seed=0, auc=0.75),
    run("hash", seed=0, auc=0.70, serve=99_000),
    run("unified", seed=1, auc=0.76),
    run("full", seed=0, auc=0.80, serve=1_000_000),
    run("unified", seed=0, auc=0.71, serve=20_000),
    run("unified", model="dlrm", seed=0, auc=0.74),
    run("unified", seed=2, auc=0.77),
]


def test_runs_that_differ_in_their_seed_are_one_contender():
    """Grouped by model, method and share, whatever order they come in; largest tables first."""
    rows = contenders(RUNS)
    assert [(r.model, r.method, r.share, len(r.runs)) for r in rows] == [
        ("deepfm", "full", 1.0, 1),
        ("deepfm", "unified", 0.1, 3),
        ("dlrm", "unified", 0.1, 1),
        ("deepfm", "hash", 0.099, 1),
        ("deepfm", "unified", 0.02, 1),
    ]
    assert contenders(RUNS[::-1])[1].mean("test", "auc") == pytest.approx(0.76)


def test_mean_and_spread():
    """Sample standard deviation; one run has none, rather than zero."""
    rows = contenders(RUNS)
    assert rows[1].mean("test", "auc") == pytest.approx(0.76)
    assert rows[1].spread("test", "auc") == pytest.approx(statistics.stdev([0.75, 0.76, 0.77]))
    assert rows[1].mean("rows_per_second") == pytest.approx(2000)
    assert rows[0].spread("test", "auc") is None


def test_widths_are_not_averaged_together():
    """The same share at width 8 and at width 16 is not the same setting."""
    rows = contenders([run(dim=16), run(dim=8, seed=1, full_bytes=500_000, serve=50_000)])
    assert len(rows) == 2


def test_settings_are_not_averaged_together():
    """Two learning rates at one seed each are two contenders, not two seeds of one."""
    slow, fast = {"optimizer": {"lr": 0.001}}, {"optimizer": {"lr": 0.01}}
    runs = [run(settings=slow), run(settings=fast), run(settings=slow, seed=1)]
    assert sorted(len(row.runs) for row in contenders(runs)) == [1, 2]


def test_sizes_that_differ_by_seed_are_one_contender():
    """What a method keeps may depend on its seed: the mean says how much it serves."""
    same = {"table": {"budget": "10%"}}
    (row,) = contenders([run(settings=same, serve=90_000), run(settings=same, serve=100_000, seed=1)])
    assert row.share == pytest.approx(0.095)
    assert len(row.runs) == 2


def test_markdown():
    """Pasted into READMEs and issues: one line per contender, spread where there is one."""
    lines, speeds = (part.splitlines() for part in markdown(contenders(RUNS)).split("\n\n"))
    assert "side by side" in speeds[0]
    assert len(lines) == 2 + 5
    assert len({line.count("|") for line in lines}) == 1
    assert "0.7600 ± 0.0100" in lines[3]
    assert "100 KB" in lines[3]
    assert "10.00%" in lines[3]
    assert "±" not in lines[2]


def lookup(ratio):
    return {"ms": ratio, "full_ms": 1.0, "ratio": ratio, "ratio_low": ratio, "ratio_high": ratio}


def test_speeds():
    """Mean over the runs that were measured; runs of earlier versions are not, and say so."""
    rows = contenders([run(lookup=lookup(2.0)), run(seed=1, lookup=lookup(4.0)), run(seed=2)])
    assert rows[0].lookup_ratio == 3.0
    assert "| 2,000 | 3.0 × | 3 |" in markdown(rows)
    assert "| – | 3 |" in markdown(contenders([run(), run(seed=1), run(seed=2)]))


def test_differences_to_full_are_paired():
    """Against full of the same model, seed by seed; full has none to itself."""
    full = [run("full", seed=seed, serve=1_000_000, auc=0.8 + seed / 100) for seed in range(3)]
    others = [run(seed=seed, auc=0.79 + seed / 100 + seed / 1e4) for seed in (2, 0, 1)]
    whole, small, alone = contenders([*others, *full, run(model="dlrm")])
    assert (whole.to_full, alone.to_full) == (None, None)
    assert small.to_full.mean == pytest.approx(-0.0099)
    assert small.to_full.std == pytest.approx(1e-4)
    assert small.to_full.p < 0.001


def test_the_full_table_to_compare_with_is_the_best_on_validation():
    """Of several settings; test rows have no say."""
    slow, fast = {"optimizer": {"lr": 0.001}}, {"optimizer": {"lr": 0.01}}
    worse = run("full", settings=slow, auc=0.9, valid={"auc": 0.7, "logloss": 0.6})
    better = run("full", settings=fast, auc=0.8)
    rows = contenders([worse, better, run(auc=0.7, settings=fast)])
    assert [row.to_full and round(row.to_full.mean, 3) for row in rows] == [0.1, None, -0.1]
    assert [row.name for row in rows] == ["full lr=0.001", "full lr=0.01", "unified"]


def test_load_runs(tmp_path):
    """Reads metrics.json of each folder, in the order given."""
    for number, metrics in enumerate(RUNS[:2]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps(metrics))
    assert load_runs([tmp_path / "1", tmp_path / "0"]) == [RUNS[1], RUNS[0]]


@pytest.mark.parametrize("text", [None, "{", ""])
def test_an_unfinished_run_is_named(tmp_path, text):
    """Comparing half a run would be silent nonsense."""
    folder = tmp_path / "half"
    folder.mkdir()
    if text is not None:
        (folder / "metrics.json").write_text(text)
    with pytest.raises(SlimtabError, match=r"half holds no finished run .*slimtab train"):
        load_runs([folder])


def test_runs_of_different_data_are_refused(tmp_path):
    """Two AUCs on two test sets say nothing about two methods."""
    for number, fingerprint in enumerate(["abc", "abd"]):
        (tmp_path / str(number)).mkdir()
        metrics = run(data={"path": "d", "rows": {}, "fingerprint": fingerprint})
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(SlimtabError, match="differently prepared data"):
        load_runs([tmp_path / "0", tmp_path / "1"])


@pytest.mark.parametrize(
    "runs", [RUNS, RUNS[:1], RUNS[3:4], RUNS[1:3], [run(lookup=lookup(2.0)), run(serve=900)]], ids=len
)
def test_pictures_are_written(tmp_path, runs):
    """Whole files in place, nothing beside them; with a full table and without, lookups measured or not."""
    write_pictures(contenders(runs), tmp_path)
    assert (tmp_path / "auc_bytes.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"auc_bytes.png", "speed.png", "page.html"}
