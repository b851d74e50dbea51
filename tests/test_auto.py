"""`--method auto` on real files: a plan, a winner, a run."""

import json

import pytest

from slimtab.auto import auto_run
from slimtab.config import build_config, load_config
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.run import train_run
from slimtab.serving.freeze import load_frozen
from slimtab.training.metrics import evaluate


def config(data, run, budget="30%"):
    return build_config(
        {
            "data": str(data),
            "run": str(run),
            "model": {"name": "deepfm", "options": {"mlp": [16]}},
            "table": {"method": "auto", "budget": budget, "dim": 8},
            "optimizer": {"lr": 0.01, "rows_lr": 0.01},
            "training": {"batch_size": 200, "epochs": 2, "threads": 1},
        }
    )


@pytest.fixture(scope="module")
def made(prepared, tmp_path_factory):
    """A finished run: its folder, and its metrics."""
    folder = tmp_path_factory.mktemp("auto")
    return folder, auto_run(config(prepared.data, folder))


def test_the_winner_is_served(prepared, made):
    """Within the budget, with every entrant on the page, and the frozen file is the winner's."""
    folder, metrics = made
    plan = json.loads((folder / "plan" / "plan.json").read_text())
    contest = {entrant["name"]: entrant for entrant in plan["entrants"]}
    assert {"full", "plan"} < set(contest)
    full = contest.pop("full")
    assert contest[plan["winner"]]["logloss"] <= contest["plan"]["logloss"]
    assert metrics["method"] == "auto"
    assert metrics["valid"]["logloss"] == contest[plan["winner"]]["logloss"]
    assert metrics["serve_bytes"] == contest[plan["winner"]]["nbytes"] <= metrics["budget_bytes"]
    assert full["nbytes"] == metrics["full_bytes"]
    page = (folder / "plan" / "plan.md").read_text()
    assert all(f"| {feature.name} |" in page for feature in prepared.schema.features)
    assert (folder / "plan" / "plan.png").stat().st_size > 10_000
    model, _ = load_frozen(folder / "frozen")
    test = evaluate(model, Loader(prepared.data, "test", 800, shuffle=False))
    assert test.auc == pytest.approx(metrics["test"]["auc"], abs=1e-9)


def test_the_plan_goes_on_from_the_full_tables(made):
    """It does not begin anew: coded at 30 % it validates about as well as they do."""
    plan = json.loads((made[0] / "plan" / "plan.json").read_text())
    contest = {entrant["name"]: entrant["logloss"] for entrant in plan["entrants"]}
    assert contest["plan"] < contest["full"] + 0.02


def test_the_same_call_goes_on(prepared, made):
    """A finished one is read; a plan that is there is not made again."""
    folder, metrics = made
    assert auto_run(config(prepared.data, folder)) == metrics
    with pytest.raises(SlimtabError, match="holds a run with"):
        auto_run(config(prepared.data, folder, budget="20%"))


def test_its_config_repeats_it_without_a_plan(prepared, made, tmp_path):
    """config.yaml holds the rules: another seed needs no other contest."""
    again = auto_run(load_config(made[0] / "config.yaml", {"run": str(tmp_path / "again"), "seed": 1}))
    assert again["method"] == "auto"
    assert again["settings"]["table"]["rules"] == made[1]["settings"]["table"]["rules"]
    # Codes may take other shapes, within the same bytes.
    assert again["serve_bytes"] == pytest.approx(made[1]["serve_bytes"], rel=0.05)
    assert not (tmp_path / "again" / "plan").exists()


def test_mistakes_are_explained(prepared, tmp_path):
    with pytest.raises(SlimtabError, match="auto divides a budget"):
        auto_run(config(prepared.data, tmp_path / "a", budget=None))
    with pytest.raises(SlimtabError, match="auto cannot plan for"):
        auto_run(config(prepared.data, tmp_path / "b", budget=100))
    with pytest.raises(SlimtabError, match="use `slimtab train"):
        train_run(config(prepared.data, tmp_path / "c"))
