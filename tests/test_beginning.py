"""A run that begins with another's full table becomes what it would have been, to the last bit."""

import pytest
import yaml
from safetensors.torch import load_file

from slimtab.beginning import begin_from
from slimtab.cli import main
from slimtab.config import build_config
from slimtab.errors import SlimtabError
from slimtab.tables.base import methods
from test_run import outcome, settings, train

FULL = {"method": "full", "dim": 8}
FASTER = {"rows": "adam", "rows_lr": 0.01, "lr": 0.01}  # Adam alone weighs rows by how many passes there were
BEGIN_FULL = [name for name, method in methods().items() if method.begins_full]


@pytest.fixture(scope="module")
def full(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    train(prepared.data, folder, table=FULL, optimizer=FASTER)
    return folder


def test_those_that_train_a_full_table_first():
    assert BEGIN_FULL == ["dedup", "rq"]


@pytest.mark.parametrize("method", BEGIN_FULL)
def test_it_ends_as_without(prepared, full, tmp_path, method):
    table = {"method": method, "budget": "30%", "dim": 8}
    whole, begun = (
        settings(prepared.data, tmp_path / name, table=table, optimizer=FASTER) for name in ("a", "b")
    )
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(begun))
    before = outcome(train(prepared.data, tmp_path / "a", **{k: whole[k] for k in ("table", "optimizer")}))
    assert main(["train", "--config", str(tmp_path / "b.yaml"), "--from", str(full)]) == 0
    after = outcome(train(prepared.data, tmp_path / "b", table=table, optimizer=FASTER))
    assert after == before
    one, other = (load_file(tmp_path / name / "frozen" / "tables.safetensors") for name in ("a", "b"))
    assert all((one[name] == other[name]).all() for name in one)
    steps = [line for line in (tmp_path / "b" / "checkpoints").iterdir() if "best-train" in line.name]
    assert steps[0].read_bytes() == (full / "checkpoints" / "best-train.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"table": FULL}, "full trains no full table first"),
        ({"table": {"method": "qr", "budget": "30%", "dim": 8}}, "qr trains no full table first"),
        ({"seed": 1}, "that has seed=0, not 1"),
        ({"table": {"method": "rq", "budget": "30%", "dim": 4}}, "that has table.dim=8, not 4"),
        ({"table": {"dim": 8, "rules": [{"method": "rq"}], "budget": "30%"}}, "trains no full table first"),
    ],
)
def test_what_does_not_fit_is_refused(prepared, full, tmp_path, changes, reason):
    wanted = {"table": {"method": "rq", "budget": "30%", "dim": 8}, "optimizer": FASTER, **changes}
    config = build_config(settings(prepared.data, tmp_path / "run", **wanted))
    with pytest.raises(SlimtabError, match=reason):
        begin_from(full, config, prepared.schema)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_finished_is_refused(prepared, tmp_path):
    config = build_config(settings(prepared.data, tmp_path / "run", table={"method": "rq", "budget": "30%"}))
    with pytest.raises(SlimtabError, match="no finished run with its checkpoints"):
        begin_from(tmp_path / "none", config, prepared.schema)
