"""The whole way: a checkpoint in, a folder out that serves, with what it cost."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

import slimtab
from slimtab.cli import main
from slimtab.config import load_config
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.reporting.compare import contenders, load_runs, markdown
from slimtab.run import train_run
from slimtab.serving.freeze import load_frozen
from slimtab.serving.predict import evaluate_raw
from slimtab.shrinking.answers import Answers
from slimtab.shrinking.finetune import finetune
from slimtab.shrinking.job import Job
from slimtab.shrinking.mixed import mix
from slimtab.shrinking.shrink import gather
from slimtab.shrinking.subjects import RunSubject

BUILDER = """
import json
import sys
from pathlib import Path

from torch import nn
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

SIZES = json.loads((Path(__file__).parent / "sizes.json").read_text())


def build():
    bags = EmbeddingBagCollection(tables=[
        EmbeddingBagConfig(name=f"t_{name}", embedding_dim=8, num_embeddings=ids, feature_names=[name])
        for name, ids in SIZES.items()
    ])
    return DLRM(bags, dense_in_features=13, dense_arch_layer_sizes=[16, 8], over_arch_layer_sizes=[16, 1])


def probabilities():
    return nn.Linear(13, 2)
"""


@pytest.fixture(scope="module")
def full(prepared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "full"
    settings = {
        "data": str(prepared.data),
        "run": str(folder),
        "table.dim": 8,
        "model.options": {"mlp": [16]},
    }
    settings |= {"training.batch_size": 256, "training.epochs": 3, "optimizer.rows_lr": 0.02}
    train_run(load_config(None, settings))
    return folder


@pytest.fixture(scope="module")
def foreign(prepared, tmp_path_factory) -> Path:
    """A DLRM of torchrec's own, trained a little, and the file that builds it."""
    folder = tmp_path_factory.mktemp("foreign")
    sizes = {feature.name: feature.num_ids for feature in prepared.schema.features}
    (folder / "sizes.json").write_text(json.dumps(sizes))
    (folder / "model.py").write_text(BUILDER)
    torch.manual_seed(0)
    configs = [
        EmbeddingBagConfig(name=f"t_{name}", embedding_dim=8, num_embeddings=ids, feature_names=[name])
        for name, ids in sizes.items()
    ]
    model = DLRM(EmbeddingBagCollection(tables=configs), 13, [16, 8], [16, 1])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for batch in Loader(prepared.data, "train", 256, shuffle=True):
        logits = model(batch.dense, batch.kjt()).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save({"state_dict": model.state_dict()}, folder / "model.pt")
    return folder


@pytest.mark.parametrize(
    ("method", "budget"),
    [("int8", None), ("int2", None), ("rq", "20%"), ("pq", "20%"), ("binary", "30%"), ("prune", "30%")],
)
def test_a_run_serves_after_it_as_before(full, prepared, tmp_path, method, budget):
    """The folder is a run's: its frozen model scores raw rows, and as well as was measured."""
    out = tmp_path / "out"
    figures = Job(full, out, method, budget, prepared.data).run()
    raw = tmp_path / "test.tsv"
    raw.write_text("".join(prepared.raw.read_text().splitlines(keepends=True)[3600:]))
    metrics, rejects = evaluate_raw(out / "frozen", raw)
    assert not rejects
    assert metrics.auc == pytest.approx(figures["after"]["test"]["auc"], abs=1e-6)
    trained = json.loads((full / "metrics.json").read_text())
    assert figures["before"]["test"]["auc"] == pytest.approx(trained["test"]["auc"], abs=1e-9)
    on_disk = (out / "frozen" / "tables.safetensors").stat().st_size
    assert figures["serve_bytes"] <= on_disk <= 1.02 * figures["serve_bytes"] + 64 * 1024
    assert json.loads((out / "shrink.json").read_text())["tables"] == figures["tables"]
    if method == "int8":
        assert abs(figures["after"]["test"]["auc"] - figures["before"]["test"]["auc"]) < 0.001


def test_what_was_shrunk_is_compared_with_what_it_was(full, prepared, tmp_path):
    """At two budgets of one method, seed by seed, with the speed of its own lookup."""
    for budget in ("20%", "30%"):
        Job(full, tmp_path / budget, "rq", budget, prepared.data).run()
    rows = contenders(load_runs([full, tmp_path / "20%", tmp_path / "30%"]))
    assert [row.name for row in rows] == ["full", "rq (shrunk)", "rq (shrunk)"]
    trained, *shrunk = rows
    for row in shrunk:
        assert row.to_full.mean == pytest.approx(row.mean("test", "auc") - trained.mean("test", "auc"))
        assert row.lookup_ratio > 0
    assert trained.share > shrunk[0].share > shrunk[1].share
    assert "| deepfm | rq (shrunk) |" in markdown(rows)


def test_without_rows_there_is_nothing_to_compare(full, tmp_path):
    Job(full, tmp_path / "out", "int8").run()
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_run_that_is_small_already_is_refused(full, tmp_path):
    Job(full, tmp_path / "out", "int8").run()
    with pytest.raises(SlimtabError, match="tables of method row_steps, which are small already"):
        Job(tmp_path / "out", tmp_path / "again", "int4").run()


def test_a_torchrec_checkpoint_is_shrunk_measured_and_restored(foreign, prepared, tmp_path, monkeypatch):
    """Its own factory builds it, before and after; what is restored answers as was measured."""
    monkeypatch.syspath_prepend(foreign)
    figures = Job(
        foreign / "model.pt",
        tmp_path / "out",
        "rq",
        "25%",
        prepared.data,
        build=f"{foreign}/model.py:build",
        min_ids=1,
    ).run()
    assert len(figures["tables"]) == 26
    assert figures["serve_bytes"] <= 0.25 * figures["full_bytes"]
    assert abs(figures["after"]["test"]["auc"] - figures["before"]["test"]["auc"]) < 0.02
    import model as factory

    restored = slimtab.restore(factory.build(), tmp_path / "out")
    rows = list(Loader(prepared.data, "test", 4096, shuffle=False))
    with torch.no_grad():
        logits = torch.cat([restored(batch.dense, batch.kjt()) for batch in rows]).flatten()
    labels = torch.cat([batch.label for batch in rows])
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(labels, logits) == pytest.approx(figures["after"]["test"]["auc"], abs=1e-6)


def test_a_plain_checkpoint_needs_no_model(foreign, tmp_path):
    """Tables alone can be shrunk; nothing is measured."""
    figures = Job(foreign / "model.pt", tmp_path / "out", "int4", min_ids=300).run()
    assert "before" not in figures
    assert 0 < len(figures["tables"]) < 26
    assert set(slimtab.load_shrunk(tmp_path / "out").names) == set(figures["tables"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": None}, "either --method or --mixed"),
        ({"mixed": True}, "either --method or --mixed"),
        ({"method": "int9"}, r"no method 'int9'; did you mean"),
        ({"method": "rq", "budget": None}, "rq can be of many sizes; give a budget"),
        ({"budget": "0.1%"}, "int8 cannot fit"),
        ({"finetune": -1.0}, "give minutes"),
        ({"finetune": 1.0}, "give --data, and --model"),
        ({"method": None, "mixed": True, "budget": "9%"}, "give --data, and --model"),
        ({"build": "nowhere.py:build"}, "--model nowhere.py:build: give a Python file"),
        ({"build": "HERE/model.py:nothing"}, "has no function nothing"),
        ({"build": "HERE/model.py:probabilities"}, "the checkpoint does not fit the model built"),
        ({"named": {"x": "C1"}, "data": True}, "--map names table 'x', which is none"),
        ({"patterns": ["*t_C1", "over_arch.model.0*"], "data": True}, "has no feature of that name"),
        ({"patterns": ["*t_C1"], "named": {"PREFIXt_C1": "C3"}, "data": True}, "rows and feature 'C3'"),
    ],
)
def test_what_does_not_fit_together_is_one_line(foreign, prepared, tmp_path, changes, words):
    prefix = "sparse_arch.embedding_bag_collection.embedding_bags."
    given = {"method": "int8", "min_ids": 1} | changes
    if given.get("data"):
        given["data"] = prepared.data
    if "build" in given:
        given["build"] = given["build"].replace("HERE", str(foreign))
    given["named"] = {t.replace("PREFIX", prefix): f for t, f in given.get("named", {}).items()}
    with pytest.raises(SlimtabError, match=words) as caught:
        Job(foreign / "model.pt", tmp_path / "out", **given).run()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_earlier_folder_stays_until_the_new_one_is_whole(full, tmp_path, monkeypatch):
    out = tmp_path / "out"
    Job(full, out, "int8").run()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr("slimtab.serving.freeze.write_tensors", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Job(full, out, "int4").run()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_mixture_beats_uniform_codes_of_as_many_bytes(full, prepared, tmp_path):
    """Features differ; and what was taken serves."""
    figures = Job(full, tmp_path / "out", None, "12%", prepared.data, mixed=True).run()
    assert figures["serve_bytes"] <= 0.12 * figures["full_bytes"]
    assert set(figures["mixed"]["ways"]) == {f.name for f in prepared.schema.features}
    taken, gain, error = (figures["mixed"][key] for key in ("taken", "gain", "gain_error"))
    assert taken == (gain > 2 * error)
    model, _ = load_frozen(tmp_path / "out" / "frozen")
    assert model.tables.table.serve_bytes() == figures["serve_bytes"]


def test_a_mixture_is_not_taken_for_noise(full, prepared, monkeypatch):
    """Where all ways cost alike, the uniform code is kept; and weights are left as they were."""
    subject = RunSubject(full)
    before = {name: table.clone() for name, table in subject.tables.items()}
    (vectors,) = gather(subject.tables, subject.counts())
    rows = list(Loader(prepared.data, "valid", 64, shuffle=False))

    noise = iter(np.random.default_rng(0).standard_normal((10_000, 400)))

    class Deaf(Answers):
        def loss(self):
            return torch.from_numpy(next(noise))

    deaf = Deaf(subject.model, rows)
    budget = vectors.full_bytes * 12 // 100
    found = mix(vectors, subject.weights(), deaf, deaf, budget, 0, lambda features: None)
    assert not found.taken
    assert found.made.table.serve_bytes() <= budget
    assert all(torch.equal(table, before[name]) for name, table in subject.tables.items())


def test_fine_tuning_learns_the_old_answers(full, prepared, tmp_path):
    """It brings the shrunk model nearer to the old one on rows it did not see, and is kept when better."""
    figures = Job(full, tmp_path / "out", "rq", "6%", prepared.data, finetune=0.05).run()
    tuned = figures["finetuned"]
    assert tuned["steps"] > 0
    assert tuned["after"]["auc"] >= tuned["before"]["auc"]
    assert tuned["after"]["logloss"] <= tuned["before"]["logloss"] + (tuned["best"] == 0)
    model, _ = load_frozen(tmp_path / "out" / "frozen")
    assert model.tables.table.codewords.dtype == torch.float16
    assert list(model.tables.table.parameters()) == []


def test_fine_tuning_that_helps_nothing_leaves_the_start(full, prepared):
    """A model that is its own teacher is at its best already: the start is a candidate, and wins."""
    subject = RunSubject(full)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}

    class Wrong(nn.Module):
        def forward(self, batch):
            return -3 * subject.model(batch).abs() - 9  # hardly a click anywhere

    train = Loader(prepared.data, "train", 64, shuffle=True)
    tuning = finetune(
        subject.model, Wrong(), train, lambda: Loader(prepared.data, "valid", 400, shuffle=False), 0.02, 0
    )
    assert tuning.steps > 0
    assert tuning.best == 0
    assert tuning.before == tuning.after
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())


def test_the_command_prints_figures(full, prepared, tmp_path, capsys):
    words = [
        "shrink",
        str(full),
        "--method",
        "int4",
        "--data",
        str(prepared.data),
        "-o",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"method", "full_bytes", "serve_bytes", "tables", "before", "after"} <= figures.keys()
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "test AUC" in printed
    assert "C1" in printed
    assert main(["shrink", "nowhere.pt", "--method", "int8", "-o", "x"]) == 1
    assert capsys.readouterr().err.startswith("slimtab: no checkpoint at nowhere.pt")
