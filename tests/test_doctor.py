"""The doctor names what is broken and the line that mends it."""

import argparse
import dataclasses

import pytest

from slimtab import doctor
from slimtab.cli import doctor as command
from slimtab.doctor import NEEDED, TESTED, Package, Report, judge
from slimtab.errors import SlimtabError

HEALTHY = tuple(Package(name, TESTED.get(name, "1.0"), None) for name in NEEDED)


def with_(name, **changes):
    return tuple(dataclasses.replace(p, **changes) if p.name == name else p for p in HEALTHY)


def test_healthy():
    assert judge(HEALTHY, cuda=False) == Report(HEALTHY, (), ())
    assert judge(with_("torch", version="2.13.0+cpu"), cuda=False).notes == ()


def test_absent_package():
    (problem,) = judge(with_("optuna", version=None), cuda=False).problems
    assert problem == "optuna is not installed; run: pip install --upgrade optuna"


def test_fbgemm_that_does_not_load():
    packages = with_("fbgemm-gpu-cpu", version="1.9.0", fault="OSError: undefined symbol")
    (problem,) = judge(packages, cuda=False).problems
    assert "1.9.0 does not load (OSError: undefined symbol)" in problem
    assert problem.endswith("run: pip install --no-deps -r requirements/torchrec-cpu.txt")


def test_wrong_torch_is_mended_before_what_is_built_on_it():
    packages = tuple(
        dataclasses.replace(p, version="2.12.0") if p.name == "torch" else p
        for p in with_("torchrec", fault="ImportError: x")
    )
    first, second = judge(packages, cuda=False).problems
    assert "torch 2.12.0 is not the tested 2.13.0" in first
    assert second.index("torch==2.13.0") < second.index("torchrec-cpu.txt")


def test_untested_versions_that_load_are_a_note():
    report = judge(with_("torchrec", version="1.9.0"), cuda=False)
    assert report.problems == ()
    assert "torchrec 1.9.0 is not the tested 1.8.0" in report.notes[0]


def test_cuda_fbgemm_beside_a_cpu_torch():
    packages = (*HEALTHY, Package("fbgemm-gpu", "1.8.0", None))
    (problem,) = judge(packages, cuda=False).problems
    assert "CUDA build" in problem
    assert "pip uninstall -y fbgemm-gpu" in problem


def test_modules_are_really_imported(monkeypatch):
    assert doctor._look("tqdm", "tqdm").fault is None
    assert "ModuleNotFoundError" in doctor._look("tqdm", "no_such_module").fault
    assert doctor._look("no-such-distribution", "no_such_module") == Package(
        "no-such-distribution", None, None
    )
    assert doctor._fault("torch") is None


@pytest.mark.parametrize("json", [False, True])
def test_command(monkeypatch, capsys, json):
    monkeypatch.setattr(doctor, "examine", lambda: judge(HEALTHY, cuda=False))
    result = command.run(argparse.Namespace(json=json))
    assert result["problems"] == ()
    assert {package["name"] for package in result["packages"]} == set(NEEDED)
    printed = capsys.readouterr().out
    assert (printed == "") == json
    assert json or ("torchrec" in printed and "(tested: 1.8.0)" in printed)


def test_command_fails_when_something_is_broken(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: judge(with_("polars", version=None), cuda=False))
    with pytest.raises(SlimtabError, match="polars is not installed"):
        command.run(argparse.Namespace(json=True))
