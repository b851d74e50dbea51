"""The frozen form of a method: equal to the trained table on every id, as small as claimed, exportable."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import save_file

from slimtab.schema import Feature
from slimtab.tables.base import get_method
from slimtab.tables.rows.fused import FusedRows
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows

FEATURES = (Feature("C1", 7), Feature("C2", 1000), Feature("C3", 300), Feature("C4", 1))
DIM = 8
SETTINGS = [
    ("full", 1.0, {}),
    ("hash", 0.3, {"probes": 1}),
    ("hash", 0.3, {"probes": 2}),
    ("hash", 0.3, {"probes": 4}),
    ("unified", 0.3, {"probes": 1}),
    ("unified", 0.3, {"probes": 2}),
    ("unified", 0.3, {"probes": 4}),
    ("unified", 0.3, {"probes": 1, "project": True}),
    ("unified", 0.3, {"probes": 2, "project": True}),
    ("unified", 0.3, {"probes": 4, "project": True}),
]
NAMES = [f"{method}-{options}" for method, _, options in SETTINGS]


def every_id():
    """All ids of all features, with their slots."""
    ids = torch.cat([torch.arange(feature.num_ids) for feature in FEATURES])
    slot = torch.cat([torch.full((f.num_ids,), number) for number, f in enumerate(FEATURES)])
    return ids, slot


def fused(num_rows, width, init_std):
    return FusedRows(num_rows, width, init_std, RowOptimizer(lr=0.05, weight_decay=1.0))


def build(setting, make_rows):
    method, share, options = setting
    table = get_method(method)
    nbytes = int(share * 4 * DIM * sum(feature.num_ids for feature in FEATURES))
    torch.manual_seed(0)
    built = table(table.Config.for_budget(FEATURES, DIM, nbytes, **options), FEATURES, DIM, make_rows, 0.1)
    if built.projection is not None:
        torch.nn.init.normal_(built.projection)
    return built


def pool(vectors):
    """Bags over one row per feature, as the collection hands them to ``project``."""
    return vectors[: 4 * 5].view(5, 4, -1)


@pytest.fixture(params=SETTINGS, ids=NAMES)
def trained(request):
    """A table after a few steps of training, decay pending."""
    table = build(request.param, fused)
    ids, slot = every_id()
    for _ in range(5):
        table.rows.zero_grad()
        table(ids, slot).square().sum().backward()
        table.rows.step()
    return table.eval()


def test_equals_eval_on_every_id(trained):
    """What is shipped is what was measured: bit for bit."""
    frozen, (ids, slot) = trained.freeze(), every_id()
    with torch.no_grad():
        vectors = trained(ids, slot)
        assert torch.equal(frozen(ids, slot), vectors)
        assert torch.equal(frozen.project(pool(vectors)), trained.project(pool(vectors)))


def test_has_no_parameters_and_needs_no_gradient(trained):
    """Buffers only: serving code never has to think of autograd."""
    frozen, (ids, slot) = trained.freeze(), every_id()
    assert list(frozen.parameters()) == []
    assert not frozen(ids, slot).requires_grad


def test_file_is_as_large_as_claimed(trained, tmp_path):
    """Design §3: payload equals serve_bytes, and the file is within 2 % + 64 KiB of it."""
    frozen = trained.freeze()
    path = tmp_path / "tables.safetensors"
    state = {name: tensor.contiguous() for name, tensor in frozen.state_dict().items()}
    save_file(state, path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size - 8 - header == frozen.serve_bytes()
    assert path.stat().st_size <= frozen.serve_bytes() * 1.02 + 64 * 1024


def test_loads_into_a_freshly_built_one(trained):
    """The file and the config rebuild the table; nothing lives in between."""
    other = type(trained)(trained.config, FEATURES, DIM, PlainRows, 0.0).freeze()
    other.load_state_dict(trained.freeze().state_dict())
    ids, slot = every_id()
    with torch.no_grad():
        assert torch.equal(other(ids, slot), trained(ids, slot))


def test_is_a_copy(trained):
    """Training on after freezing must not change what was frozen."""
    frozen, (ids, slot) = trained.freeze(), every_id()
    before = frozen(ids, slot).clone()
    trained.rows.zero_grad()
    trained(ids, slot).square().sum().backward()
    trained.rows.step()
    assert torch.equal(frozen(ids, slot), before)


def test_pickles_and_copies(trained):
    """Closures would not; users send models to worker processes."""
    frozen, (ids, slot) = trained.freeze(), every_id()
    for other in (pickle.loads(pickle.dumps(frozen)), copy.deepcopy(frozen)):
        assert torch.equal(other(ids, slot), frozen(ids, slot))


def test_exports_with_a_dynamic_batch(trained):
    """torch.export at one batch size answers at any other."""
    frozen, (ids, slot) = trained.freeze(), every_id()
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(frozen, (ids[:64], slot[:64]), dynamic_shapes=({0: rows}, {0: rows}))
    for count in (2, 63, len(ids)):
        assert torch.equal(program.module()(ids[:count], slot[:count]), frozen(ids[:count], slot[:count]))


def test_compiles_without_a_graph_break(trained):
    """A break would send serving back to Python for every batch."""
    frozen, (ids, slot) = trained.freeze(), every_id()
    torch.compiler.reset()  # every setting compiles the same code object, and recompiling has a limit
    compiled = torch.compile(frozen, fullgraph=True, backend="eager", dynamic=True)
    assert torch.equal(compiled(ids, slot), frozen(ids, slot))
    assert torch.equal(compiled(ids[:10], slot[:10]), frozen(ids[:10], slot[:10]))


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_plain_rows_freeze_alike(setting):
    """Rows trained by somebody else's optimizer ship the same way."""
    table, (ids, slot) = build(setting, PlainRows), every_id()
    with torch.no_grad():
        assert torch.equal(table.freeze()(ids, slot), table(ids, slot))


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_state_dict_is_complete(setting):
    """Seeds are buffers, so a checkpoint alone rebuilds the table, whatever this version's defaults are."""
    one, other = build(setting, fused), build(setting, fused)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    other.load_state_dict(one.state_dict())
    ids, slot = every_id()
    with torch.no_grad():
        assert torch.equal(other(ids, slot), one(ids, slot))


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_start_values_have_the_asked_variance(setting):
    """Methods are compared from equal starts: each output coordinate, whatever is averaged or joined."""
    method, share, options = setting
    features = (Feature("C1", 40_000),)
    table = get_method(method)
    config = table.Config.for_budget(features, DIM, int(share * 4 * DIM * 40_000), **options)
    torch.manual_seed(0)
    built = table(config, features, DIM, PlainRows, 0.1)
    ids = torch.arange(40_000)
    with torch.no_grad():
        vectors = built.project(built(ids, torch.zeros_like(ids))[:, None])
    assert float(vectors.std()) == pytest.approx(0.1, rel=0.05)
