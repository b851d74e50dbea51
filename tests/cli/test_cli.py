"""The commands as a shell sees them: help, exit status, one line per error, one JSON value per --json."""

import json
import os
import re
import subprocess
import sys

import pytest

import slimtab
from slimtab.cli import _COMMANDS, main

SMALL = ["--dim", "8", "model.options={mlp: [16]}", "training.batch_size=200", "training.threads=1"]


def call(capsys, *arguments):
    """Exit status, standard output and standard error of a command."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse ends this way
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def strict(text):
    """Parse JSON as the standard has it: Python alone also takes NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def figures(capsys, *arguments):
    """The one JSON value that a command with --json prints on standard output."""
    status, out, err = call(capsys, *arguments, "--json")
    assert status == 0, err
    assert len(out.splitlines()) == 1
    return strict(out)


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    """A run made by the command itself."""
    folder = tmp_path_factory.mktemp("cli") / "u20"
    arguments = ["train", prepared.data, "--run", folder, "--method", "unified", "--budget", "20%"]
    assert main([str(argument) for argument in [*arguments, *SMALL, "training.epochs=1"]]) == 0
    return folder


class TestHelp:
    """Every command explains itself."""

    def test_the_program_lists_its_commands(self, capsys):
        """And shows a first example."""
        status, out, _ = call(capsys, "--help")
        assert status == 0
        assert set(_COMMANDS) <= set(re.findall(r"[a-z]+", out))
        assert "example:\n  slimtab prep" in out

    def test_no_command(self, capsys):
        """Whoever types the name alone is asking what there is."""
        status, out, err = call(capsys)
        assert (status, out) == (2, "")
        assert set(_COMMANDS) <= set(re.findall(r"[a-z]+", err))

    @pytest.mark.parametrize("command", _COMMANDS)
    def test_every_command_has_an_example(self, capsys, command):
        """Design §6: `--help` with an example, which is of that command; --json and --seed everywhere."""
        status, out, _ = call(capsys, command, "--help")
        assert status == 0
        assert f"example:\n  slimtab {command}" in out
        assert "--json" in out
        assert "--debug" in out

    @pytest.mark.parametrize("command", _COMMANDS)
    def test_percent_signs_come_out_single(self, capsys, command):
        """argparse eats or doubles them when they are not escaped rightly."""
        _, out, _ = call(capsys, command, "--help")
        assert "%%" not in out
        assert "%(" not in out

    def test_version(self, capsys):
        """The version that metrics.json names."""
        assert call(capsys, "--version")[:2] == (0, f"{slimtab.__version__}\n")

    def test_the_command_is_installed(self):
        """`python -m slimtab` is the same program, with the same exit status."""
        done = subprocess.run([sys.executable, "-m", "slimtab", "--help"], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.startswith("usage: slimtab")


ERRORS = [
    (["plan", "{tmp}/nowhere"], "no dataset at"),
    (["plan", "{data}", "--method", "unifed"], "did you mean 'unified'"),
    (["plan", "{data}", "--budget", "1%"], "full cannot fit"),
    (["plan", "{data}", "--method", "hash", "--budget", "lots"], "neither a share like 10% nor a size"),
    (["plan", "{data}", "--method", "hash", "--budget", "50%", "probes"], "not of the form key=value"),
    (["plan", "{data}", "--method", "hash", "--budget", "50%", "probes=[1,"], "probes"),
    (["plan", "{data}", "--method", "hash", "--budget", "50%", "prob=2"], "did you mean 'probes'"),
    (["plan", "{data}", "--dim", "0"], "width 0"),
    (["train", "{data}"], "no run folder given"),
    (["train", "--run", "{tmp}/r"], "no dataset folder given"),
    (["train", "{data}", "--run", "{tmp}/r", "optimizer.row_lr=1"], "no key 'optimizer.row_lr'"),
    (["train", "{data}", "--run", "{tmp}/r", "--model", "deepfn"], "did you mean 'deepfm'"),
    (["train", "{data}", "--run", "{tmp}/r", "training.batch_size=0"], "training.batch_size"),
    (["train", "--config", "{tmp}/absent.yaml"], "absent.yaml"),
    (["evaluate", "{tmp}", "{raw}"], "no frozen model at"),
    (["predict", "{tmp}", "{raw}", "-o", "{tmp}/p.parquet"], "no frozen model at"),
    (["compare", "{tmp}"], "holds no finished run"),
    (["compare"], "name run folders to compare, or a grid"),
    (["compare", "{run}", "--grid", "{tmp}/grid.yaml"], "name run folders to compare, or a grid"),
    (["compare", "--grid", "{tmp}/absent.yaml"], "absent.yaml cannot be read"),
    (["evaluate", "{run}", "{tmp}/absent.tsv"], "absent.tsv"),
    (["synth", "{tmp}/x.tsv", "--rows", "0"], "rows"),
    (["prep", "criteo", "{tmp}/absent.tsv", "{tmp}/out"], "absent.tsv"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[" ".join(a[:4]) for a, _ in ERRORS])
class TestErrors:
    """Design §6: exit status 0 only on success, one readable line, no traceback without --debug."""

    def filled(self, arguments, prepared, run, tmp_path):
        places = {"tmp": tmp_path, "data": prepared.data, "raw": prepared.raw, "run": run}
        return [argument.format(**places) if argument[0] == "{" else argument for argument in arguments]

    @pytest.mark.parametrize("more", [[], ["--json"]], ids=["", "json"])
    def test_one_line(self, capsys, prepared, run, tmp_path, arguments, message, more):
        """Nothing on standard output either, so that a script never parses half an answer."""
        status, out, err = call(capsys, *self.filled(arguments, prepared, run, tmp_path), *more)
        assert status == 1
        assert out == ""
        assert len(err.splitlines()) == 1
        assert err.startswith("slimtab: ")
        assert message in err

    def test_debug_shows_where(self, prepared, run, tmp_path, arguments, message):
        """For those who look for a bug."""
        with pytest.raises(slimtab.errors.SlimtabError):
            main([*self.filled(arguments, prepared, run, tmp_path), "--debug"])


@pytest.mark.parametrize("arguments", [[], ["trane"], ["train", "d", "--bananas"], ["methods", "stray"]])
def test_wrong_usage(capsys, arguments):
    """argparse's own errors: status 2 and the usage line."""
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "usage: slimtab" in err


def test_a_failing_process_has_no_traceback(tmp_path):
    """The same in a real process, where an exception could still slip out on the way."""
    command = [sys.executable, "-m", "slimtab", "plan", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("slimtab: no dataset at")


@pytest.mark.parametrize(("option", "few"), [("", "head -1"), ("--json", "head -c 9")])
def test_a_closed_pipe_is_no_error(option, few):
    """`slimtab methods | head -1`."""
    command = f"{sys.executable} -m slimtab methods {option} | {few}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=os.environ)
    assert done.stdout
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_methods(capsys):
    """A list, as design §6 has it."""
    listed = figures(capsys, "methods")
    assert {"full", "hash", "unified"} <= {entry["name"] for entry in listed}
    _, out, _ = call(capsys, "methods")
    assert all(entry["name"] in out and entry["paper"] in out for entry in listed)


def test_plan(capsys, prepared):
    """The object of design §6, and the same figures in the table for people."""
    arguments = ["plan", prepared.data, "--method", "hash", "--budget", "20%", "--dim", "8", "probes=2"]
    planned = figures(capsys, *arguments)
    assert planned["full_bytes"] == prepared.schema.full_bytes(8)
    assert planned["serve_bytes"] <= 0.2 * planned["full_bytes"]
    assert [f["name"] for f in planned["features"]] == [f.name for f in prepared.schema.features]
    status, out, _ = call(capsys, *arguments)
    assert status == 0
    assert all(feature.name in out for feature in prepared.schema.features)


def test_settings_may_stand_anywhere(capsys, prepared):
    """key=value before, between and after the options."""
    plans = [
        figures(capsys, "plan", prepared.data, *words)
        for words in (
            ["probes=2", "--method", "hash", "--budget", "20%"],
            ["--method", "hash", "probes=2", "--budget", "20%"],
            ["--method", "hash", "--budget", "20%", "probes=2"],
        )
    ]
    assert plans[0] == plans[1] == plans[2]


def test_train(capsys, prepared, run, tmp_path):
    """metrics.json on standard output; on it again with --config; a table without --json."""
    again = [
        "train", "--config", run / "config.yaml", "--run", tmp_path / "again", "--seed", "3",
    ]  # fmt: skip
    metrics = figures(capsys, *again)
    assert metrics == json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert metrics["seed"] == 3
    assert metrics["method"] == "unified"
    status, out, err = call(capsys, *again)  # finished: returns what is there
    assert status == 0
    assert "unified" in out
    assert "tensorboard --logdir" in err


def test_evaluate(capsys, prepared, run):
    """Labelled raw rows through encoder and frozen model."""
    scored = figures(capsys, "evaluate", run, prepared.raw)
    assert set(scored) >= {"auc", "logloss", "calibration", "rows"}
    assert scored["rows"] == 4000
    assert "AUC" in call(capsys, "evaluate", run, prepared.raw)[1]


def test_json_is_json_even_without_an_auc(capsys, prepared, run, tmp_path):
    """Rows of one class have no AUC: null, not NaN, which other parsers refuse."""
    clicks = [line for line in prepared.raw.read_text().splitlines() if line.startswith("1")]
    (tmp_path / "clicks.tsv").write_text("\n".join(clicks) + "\n")
    assert figures(capsys, "evaluate", run, tmp_path / "clicks.tsv")["auc"] is None


def test_predict(capsys, prepared, run, tmp_path):
    """A row for a row."""
    import pyarrow.parquet as pq

    done = figures(capsys, "predict", run, prepared.raw, "-o", tmp_path / "p.parquet")
    assert done["rows"] == 4000
    table = pq.read_table(tmp_path / "p.parquet")
    assert table["row"].to_pylist() == list(range(1, 4001))


def test_compare(capsys, run, tmp_path):
    """Table, plot and page in a folder, figures on standard output."""
    compared = figures(capsys, "compare", run, "-o", tmp_path / "c")
    assert compared["contenders"][0]["method"] == "unified"
    made = {"table.md", "table.csv", "auc_bytes.png", "speed.png", "page.html"}
    assert {path.name for path in (tmp_path / "c").iterdir()} == made
    assert "| unified |" in call(capsys, "compare", run, "-o", tmp_path / "c")[1]


def test_synth_and_prep(capsys, tmp_path):
    """From nothing to a dataset that `plan` takes."""
    made = figures(capsys, "synth", tmp_path / "raw.tsv", "--rows", "500", "--ids", "100")
    assert made["rows"] == 500
    status, _, err = call(capsys, "prep", "criteo", tmp_path / "raw.tsv", tmp_path / "data")
    assert status == 0, err
    assert figures(capsys, "plan", tmp_path / "data")["num_ids"] > 26
