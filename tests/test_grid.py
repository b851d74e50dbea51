"""A grid from its YAML file to its tables, in real processes: run, stopped and gone on with, failing."""

import csv
import json
import shutil

import pytest
import yaml

from slimtab.cli import main
from slimtab.errors import SlimtabError
from slimtab.grid.places import OWN_SIZE, places, run_config
from slimtab.grid.runs import Grid
from slimtab.grid.settings import read_grid

SMALL = {
    "table.dim": 8,
    "model.options": {"mlp": [8]},
    "training.epochs": 1,
    "training.batch_size": 800,
    "optimizer.rows_lr": 0.01,
}


def grid_file(folder, dataset, /, **changes):
    """Write a grid; ``changes`` replace its keys, None leaves one out."""
    values = {
        "data": [str(dataset)],
        "methods": ["full", "hash"],
        "budgets": ["50%", "20%"],
        "seeds": 2,
        "settings": SMALL,
        **changes,
    }
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return path


def compare(grid, out, *more):
    return main(["compare", "--grid", str(grid), "-o", str(out), "--jobs", "2", *more])


def read_csv(out):
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def begun(out):
    """When each run was trained: a run that is read only keeps its time."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/*/metrics.json")}


@pytest.fixture(scope="module")
def done(prepared, tmp_path_factory):
    """The folder of a finished grid, with its YAML file in it."""
    folder = tmp_path_factory.mktemp("grid")
    assert compare(grid_file(folder, prepared.data), folder / "out") == 0
    return folder


class TestSettings:
    """The file is read as a run's config is: typed, and a mistake is one line that says what to do."""

    def test_short_and_long_forms_of_a_method(self, tmp_path):
        """A name alone, or a group whose name defaults to the method's."""
        entry = {"method": "unified", "name": "u2", "options": {"probes": 2}}
        config = read_grid(grid_file(tmp_path, "d", methods=["full", {"method": "hash"}, entry]))
        assert [(method.method, method.name) for method in config.methods] == [
            ("full", "full"), ("hash", "hash"), ("unified", "u2"),
        ]  # fmt: skip
        assert config.methods[2].options == {"probes": 2}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"budgetz": 1}, "no key 'budgetz'; did you mean 'budgets'"),
            ({"methods": [{"method": "hash", "optons": {}}]}, "no key 'optons'; did you mean 'options'"),
            ({"methods": "full"}, "list of names"),
            ({"methods": [{"name": "x"}]}, "no key method"),
            ({"methods": ["hash", {"method": "hash", "options": {"probes": 2}}]}, "called 'hash'.*name:"),
            ({"methods": [{"method": "hash", "name": "../x"}]}, "cannot name a folder"),
            ({"methods": None}, "'methods' is empty"),
            ({"data": ["a/sports", "b/sports"]}, "'sports'; rename"),
            ({"budgets": ["5%", "5%"]}, "leave one out"),
            ({"seeds": 0}, "at least 1"),
            ({"seeds": "many"}, "seeds"),
            ({"settings": {"table.budget": "1%"}}, "set by the grid itself"),
            ({"tune": {"table.options.probes": [1, 2]}}, "set by the grid itself"),
            ({"tune": {"table.dim": [4, 8]}}, "cannot be tuned"),
            ({"tune": {"optimizer.lr": []}}, "no values"),
        ],
        ids=str,
    )
    def test_mistakes(self, tmp_path, changes, message):
        with pytest.raises(SlimtabError, match=message) as caught:
            read_grid(grid_file(tmp_path, "d", **changes))
        assert str(caught.value).startswith(f"{tmp_path}/grid.yaml: ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"methods": ["hahs"]}, "did you mean 'hash'"),
            ({"methods": [{"method": "hash", "options": {"probe": 2}}]}, "did you mean 'probes'"),
            ({"settings": {"optimizer.row_lr": 1}}, "did you mean 'rows_lr'"),
            ({"budgets": ["lots"]}, "neither a share"),
            ({"data": ["nowhere"]}, "no dataset at"),
        ],
        ids=str,
    )
    def test_mistakes_found_before_anything_runs(self, prepared, tmp_path, changes, message):
        """An hour of training is no way to learn of a misspelt option."""
        config = read_grid(grid_file(tmp_path, prepared.data, **changes))
        with pytest.raises(SlimtabError, match=message):
            Grid(config, tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestPlaces:
    """What is run where."""

    def rows(self, prepared, tmp_path, **changes):
        config = read_grid(grid_file(tmp_path, prepared.data, **changes))
        return list(places(config, str(prepared.data)))

    def test_a_fixed_size_is_run_once(self, prepared, tmp_path):
        """full is the same table at every budget that holds it."""
        found = self.rows(prepared, tmp_path, methods=["full"], budgets=["200%", "100%", "50%"])
        assert [(place.column, place.budget, place.note) for place in found] == [(OWN_SIZE, None, "")]

    def test_a_budget_out_of_reach_is_a_line_in_the_table(self, prepared, tmp_path):
        """It names the smallest size instead of failing."""
        found = self.rows(prepared, tmp_path, methods=["hash"], budgets=["50%", "10"])
        assert [place.note[:8] for place in found] == ["", "smallest"]
        assert found[0].target == 0.5

    def test_rules_count(self, prepared, tmp_path):
        """A row may be several methods by rules; what it can reach is what they can reach together."""
        rules = {
            "method": "full",
            "name": "mixed",
            "settings": {"table.rules": [{"method": "hash", "min_ids": 100}]},
        }
        found = self.rows(prepared, tmp_path, methods=[rules], budgets=["50%", "1%"])
        assert [place.note[:8] for place in found] == ["", "smallest"]

    def test_budgets_that_make_the_same_table_are_trained_once(self, prepared, tmp_path):
        """hash holds no more rows than there are ids, so beyond that a budget changes nothing."""
        found = self.rows(prepared, tmp_path, methods=["hash"], budgets=["300%", "20%", "200%"])
        assert [place.budget for place in found] == ["200%", "20%", "200%"]


@pytest.mark.slow
def test_tables(prepared, done):
    """Pivot and contenders in Markdown, a line per run in CSV, the plot; full run once per seed."""
    out = done / "out"
    assert {path.name for path in out.iterdir()} == {
        "table.md",
        "table.csv",
        "auc_bytes.png",
        "speed.png",
        "page.html",
        "runs",
    }
    lines = (out / "table.md").read_text().splitlines()
    assert any(line.startswith("full: test AUC") and line.endswith("(2 seeds)") for line in lines)
    assert "| method | 50% | 20% |" in lines
    assert sum(line.startswith("| hash |") for line in lines) == 1
    rows = read_csv(out)
    assert [(row["name"], row["budget"], row["seed"]) for row in rows] == [
        ("full", "own size", "0"), ("full", "own size", "1"),
        ("hash", "50%", "0"), ("hash", "50%", "1"), ("hash", "20%", "0"), ("hash", "20%", "1"),
    ]  # fmt: skip
    assert all(float(row["share"]) <= float(row["budget"][:-1]) / 100 for row in rows[2:])
    written = json.loads((out / "runs" / prepared.data.name / "hash-20pct-s1" / "metrics.json").read_text())
    assert float(rows[5]["test_auc"]) == written["test"]["auc"]
    assert written["settings"]["optimizer"]["rows_lr"] == 0.01


@pytest.mark.slow
def test_goes_on(capsys, done, tmp_path):
    """A stopped grid trains what is missing and reads the rest; the figures are those of an unbroken one."""
    shutil.copytree(done / "out", tmp_path / "out")
    before, rows = begun(tmp_path / "out"), read_csv(tmp_path / "out")
    shutil.rmtree(next((tmp_path / "out" / "runs").glob("*/hash-20pct-s1")))
    capsys.readouterr()
    assert compare(done / "grid.yaml", tmp_path / "out", "--json") == 0
    after = begun(tmp_path / "out")
    assert [name for name in before if after[name] != before[name]] == ["hash-20pct-s1"]
    again = read_csv(tmp_path / "out")
    assert [row["test_auc"] for row in again] == [row["test_auc"] for row in rows]
    figures = json.loads(capsys.readouterr().out)
    cells = {(cell["method"], cell["budget"]): cell for cell in figures["datasets"][0]["cells"]}
    assert cells["hash", "50%"]["seeds"] == [0, 1]
    mean = sum(float(rows[i]["test_auc"]) - float(rows[i - 2]["test_auc"]) for i in (2, 3)) / 2
    assert cells["hash", "50%"]["to_full"]["mean"] == pytest.approx(mean)


def test_other_settings_are_not_read_as_these(prepared, done, tmp_path):
    """Finished runs of a grid that was edited since would pass for runs of the new one."""
    config = read_grid(grid_file(tmp_path, prepared.data, settings={**SMALL, "optimizer.rows_lr": 0.1}))
    with pytest.raises(SlimtabError, match="full-own-s0 holds a run with other settings"):
        Grid(config, done / "out").run()


def test_a_finished_run_says_what_others_of_its_cell_take(prepared, done, tmp_path):
    """What was measured counts, not an estimate; and nothing is refused where nothing is left to do."""
    shutil.copytree(done / "out", tmp_path / "out")
    folder = tmp_path / "out" / "runs" / prepared.data.name
    metrics = json.loads((folder / "full-own-s0" / "metrics.json").read_text())
    assert 10**8 < metrics["peak_memory_bytes"] < 10**10
    changed = json.dumps({**metrics, "peak_memory_bytes": 10**12})
    (folder / "full-own-s0" / "metrics.json").write_text(changed)
    config = read_grid(grid_file(tmp_path, prepared.data))
    Grid(config, tmp_path / "out", memory=10**11).run()
    shutil.rmtree(folder / "full-own-s1")
    with pytest.raises(SlimtabError, match=r"full at own size on data takes about 1 TB alone"):
        Grid(config, tmp_path / "out", memory=10**11).run()


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others(capsys, prepared, tmp_path):
    """It is reported at the end with its last line, and the status is 1; the tables hold what there is."""
    broken = {"method": "hash", "name": "broken", "settings": {"model.options": {"mlp": [0]}}}
    grid = grid_file(tmp_path, prepared.data, methods=[broken, "full"], budgets=["20%"], seeds=1)
    assert compare(grid, tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "broken-20pct-s0: slimtab: model deepfm: option 'mlp' is [0]" in captured.err
    assert captured.err.splitlines()[-1].startswith("slimtab: 1 of 2 runs failed")
    assert "| broken | failed |" in captured.out
    assert [row["name"] for row in read_csv(tmp_path / "out")] == ["full"]


def test_tuning_takes_the_best_on_validation(prepared, done, tmp_path):
    """Never on test, once per cell; and a setting that a method brings along is not tuned."""
    own = {"method": "full", "name": "fixed", "settings": {"optimizer.rows_decay": 1}}
    tune = {"optimizer.rows_decay": [0, 3, 9]}
    config = read_grid(grid_file(tmp_path, prepared.data, methods=["full", own], tune=tune))
    metrics = json.loads(next(done.glob("out/runs/*/full-own-s0/metrics.json")).read_text())
    grid = Grid(config, tmp_path / "out")
    tuned, fixed = grid.places
    # Runs that are finished already, the best on validation being the worst on test.
    quality = [(0, 0.52, 0.9), (3, 0.50, 0.6), (9, 0.51, 0.8)]
    runs = [(tuned, {"optimizer.rows_decay": d}, 0, loss, auc) for d, loss, auc in quality]
    runs += [(tuned, {"optimizer.rows_decay": 3}, 1, 0.5, 0.6)]
    runs += [(fixed, {}, seed, 0.5, 0.7) for seed in (0, 1)]
    for place, point, seed, loss, auc in runs:
        words = [place.method.name, "own", *(f"{key}={value}" for key, value in point.items()), f"s{seed}"]
        folder = tmp_path / "out" / "runs" / prepared.data.name / "-".join(words)
        folder.mkdir(parents=True)
        run_config(config, place, point, seed, folder).save(folder / "config.yaml")
        scores = {"valid": {"auc": 0.7, "logloss": loss}, "test": {"auc": auc, "logloss": 0.5}}
        (folder / "metrics.json").write_text(
            json.dumps({**metrics, **scores, "seed": seed, "run": str(folder)})
        )
    grid.run()  # trains nothing: it would take what other points lack
    assert len(grid.finished) == len(runs)
    rows = list(grid.rows())
    assert [row["tuned"] for row in rows if row["chosen"] == "no"] == [
        {"optimizer.rows_decay": 0}, {"optimizer.rows_decay": 9},
    ]  # fmt: skip
    first, second = grid.cells(str(prepared.data))
    assert first.settings == {"optimizer.rows_decay": 3}
    assert [run["test"]["auc"] for run in first.runs] == [0.6, 0.6]
    assert second.settings == {}
    assert [run["method"] for run in second.runs] == ["fixed", "fixed"]
