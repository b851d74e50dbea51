"""Compiled loops read what lies in memory, and stand aside for all that records, compiles or exports."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from slimtab import kernels


def test_reads_plain_tensors():
    assert kernels.ready(torch.ones(3), torch.nn.Parameter(torch.ones(3), requires_grad=False))


def test_not_what_lies_apart():
    assert not kernels.ready(torch.ones(4, 4).t())


def test_not_where_gradients_are_recorded():
    weight = torch.ones(3, requires_grad=True)
    assert not kernels.ready(weight)
    with torch.no_grad():
        assert kernels.ready(weight)


def test_not_what_has_no_memory():
    assert not kernels.ready(torch.ones(3, device="meta"))
    with FakeTensorMode():
        assert not kernels.ready(torch.ones(3))


def test_not_while_torch_compiles():
    compiled = torch.compile(
        lambda x: x + (1.0 if kernels.ready(x) else 0.0), backend="eager", fullgraph=True
    )
    assert torch.equal(compiled(torch.zeros(3)), torch.zeros(3))


def test_not_while_torch_traces():
    traced = torch.jit.trace(
        lambda x: x + (1.0 if kernels.ready(x) else 0.0), torch.zeros(3), check_trace=False
    )
    assert torch.equal(traced(torch.zeros(3)), torch.zeros(3))


LOOKUP = """
import json, sys, torch
from slimtab import kernels
from slimtab.schema import Feature
from slimtab.tables.base import get_method
from slimtab.tables.rows.plain import PlainRows
torch.manual_seed(0)
features = (Feature("a", 50), Feature("b", 2000))
method = get_method("robe")
table = method(method.Config.for_budget(features, 8, 20000), features, 8, PlainRows, 0.1).eval().freeze()
with torch.no_grad():
    vectors = table(torch.arange(50), torch.arange(50) % 2)
print(json.dumps([kernels.installed(), "numba" in sys.modules, vectors.tolist()]))
"""


def look(**environment):
    done = subprocess.run(
        [sys.executable, "-c", LOOKUP],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout)


def test_works_without_numba():
    """As where it may not compile: the same vectors, from torch's operations."""
    assert look(NUMBA_DISABLE_JIT="1") == [False, False, look()[2]]


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null/below"])
def test_works_where_code_cannot_be_kept(folder):
    """A container may have no folder to write to."""
    assert look(NUMBA_CACHE_DIR=folder)[2] == look()[2]


def test_code_is_kept_with_all_its_sources(tmp_path):
    """Numba looks at a loop's own file alone, and its helpers stand in others."""
    look(NUMBA_CACHE_DIR=str(tmp_path))
    (folder,) = tmp_path.iterdir()
    kept = {path.name for path in folder.rglob("*.nbc")}
    assert any("chunks" in name for name in kept)
    look(NUMBA_CACHE_DIR=str(tmp_path))
    assert {path.name for path in tmp_path.rglob("*.nbc")} == kept
