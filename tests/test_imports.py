"""Imports point one way only (design.md §1), and what is heavy is imported late."""

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import slimtab

ROOT = Path(slimtab.__file__).parent
# Each part may import those above it, and itself.
ORDER = [
    {"errors", "__init__"},
    {"sizes"},
    {"files", "studies", "hull", "registry"},
    {"schema"},
    {"batch"},
    {"config"},
    {"data"},
    {"kernels"},
    {"tables"},
    {"collection"},
    {"models"},
    {"training"},
    {"search", "planning", "beginning"},
    {"serving"},
    {"reporting"},
    {"run", "plan", "grid", "dropin", "doctor", "testing"},
    {"searching", "sweep", "auto", "shrinking"},
    {"cli"},
    {"__main__"},
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
FILES = sorted(ROOT.rglob("*.py"))


def part_of(module):
    """``slimtab.tables.rows`` → ``tables``; ``slimtab`` → ``__init__``."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(path):
    """All modules a file imports, in functions too, with whether each is imported on loading the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test))
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "slimtab":  # from slimtab import x: a part, or a name of the package itself
                for alias in node.names:
                    there = f"slimtab.{alias.name}" if alias.name in RANK else "slimtab"
                    yield there, id(node) not in late
            else:
                yield node.module, id(node) not in late


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    """A part that imports what stands after it ties the house into a knot that nobody can take apart."""
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert here in RANK, f"{here} has no place in the order of imports; give it one in this test"
    for module, _ in imports(path):
        if module.partition(".")[0] == "slimtab":
            there = part_of(module)
            assert there == here or RANK[there] < RANK[here], f"{path.name} imports {module}"


@pytest.mark.parametrize("part", ["tables", "models", "serving"])
def test_what_serves_knows_nothing_of_torchrec(part):
    """A frozen model serves on torch alone (design §1): no torchrec, no fbgemm, not even late."""
    for path in (ROOT / part).rglob("*.py"):
        names = {module.partition(".")[0] for module, _ in imports(path)}
        assert not names & {"torchrec", "fbgemm_gpu"}, path


def test_nothing_imports_torchrec_on_loading():
    """Importing it takes seconds; the collection does it in the functions that need it."""
    for path in FILES:
        early = {module.partition(".")[0] for module, at_once in imports(path) if at_once}
        assert not early & {"torchrec", "fbgemm_gpu"}, path


def test_nothing_imports_numba_on_loading():
    """It is not always there, and not always needed: who reads a table by kernels imports them then."""
    for path in FILES:
        if path.parent.name != "kernels":
            early = {module for module, at_once in imports(path) if at_once}
            assert not any(name.startswith(("numba", "llvmlite", "slimtab.kernels.")) for name in early), path


def test_the_package_never_imports_its_fakes():
    """testing.py is for tests, of slimtab and of what builds on it."""
    for path in FILES:
        if path.name != "testing.py":
            assert "slimtab.testing" not in {module for module, _ in imports(path)}, path


def loaded_by(code):
    """Top-level modules that a fresh Python has after ``code``, and the seconds it took."""
    report = "import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1])), time.perf_counter() - started


HEAVY = {
    "torch",
    "torchrec",
    "fbgemm_gpu",
    "sklearn",
    "matplotlib",
    "tensorboard",
    "optuna",
    "pandas",
    "polars",
    "numba",
}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["plan", "--help"], ["prep", "--help"], ["--version"]],
    ids=" ".join,
)
def test_help_is_quick(arguments):
    """Design §7: `slimtab --help` answers within half a second, so it loads nothing heavy."""
    code = f"from slimtab.cli import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass"
    loaded, seconds = min((loaded_by(code) for _ in range(3)), key=lambda result: result[1])
    assert not loaded & HEAVY
    bare = min(loaded_by("")[1] for _ in range(3))
    assert seconds < bare + 1.0  # half a second on a quiet machine


def test_serving_loads_no_torchrec():
    """The same, seen at run time: scoring raw rows works where torchrec is not installed."""
    loaded, _ = loaded_by("import slimtab.serving.predict, slimtab.tables.unified, slimtab.models.dlrm")
    assert "torch" in loaded
    assert not loaded & {"torchrec", "fbgemm_gpu"}


def test_training_loads_no_torchrec():
    """slimtab's own models take batches directly; torchrec is for those who bring it."""
    loaded, _ = loaded_by("import slimtab.run; from slimtab.tables.base import methods; methods()")
    assert not loaded & {"torchrec", "fbgemm_gpu"}
