"""What is compiled reads what torch reads: every method, many widths, any number of threads."""

import pytest
import torch

from slimtab import kernels
from slimtab.schema import Feature
from slimtab.tables.base import in_last_stage, methods
from slimtab.tables.fitted.row_steps import FrozenRowSteps, pack_rows
from slimtab.tables.parts.starts import starts
from slimtab.tables.rows.plain import PlainRows

FEATURES = (
    Feature("C1", 7), Feature("C2", 3000), Feature("C3", 1), Feature("C4", 900), Feature("C5", 64)
)  # fmt: skip
UNEVEN = Feature("hashed", 2000, encoding="hash")
# Not compiled: their lookups are products of matrices.
PRODUCTS = {"tt", "dhe"}
METHODS = sorted(set(methods()) - PRODUCTS)


def frozen(method, dim, budget=0.4, features=FEATURES, **options):
    """A table with random weights, trained in no way."""
    torch.manual_seed(0)
    table = methods()[method]
    nbytes = int(budget * 4 * dim * sum(feature.num_ids for feature in features))
    nbytes = max(nbytes, table.Config.smallest_bytes(features, dim, **options))
    config = table.Config.for_budget(features, dim, nbytes, **options)
    return in_last_stage(table(config, features, dim, PlainRows, 0.1)).eval().freeze()


def draw(count, features=FEATURES):
    """Ids [count] and slots [count]."""
    generator = torch.Generator().manual_seed(count)
    slot = torch.randint(len(features), (count,), generator=generator)
    sizes = torch.tensor([feature.num_ids for feature in features])[slot]
    return (torch.rand(count, generator=generator, dtype=torch.float64) * sizes).long(), slot


def plainly(monkeypatch, call):
    """``call()`` where numba is not installed."""
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "installed", lambda: False)
        return call()


def assert_same(table, ids, slot, monkeypatch):
    """Sums may round differently by a bit, everything else is equal."""
    with torch.no_grad():
        vectors = table(ids, slot)
        torch.testing.assert_close(
            vectors, plainly(monkeypatch, lambda: table(ids, slot)), rtol=1e-6, atol=1e-7
        )
        pooled = vectors[: len(vectors) // 5 * 5].view(-1, 5, vectors.shape[1])
        torch.testing.assert_close(
            table.project(pooled), plainly(monkeypatch, lambda: table.project(pooled)), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("dim", [16, 20])
@pytest.mark.parametrize("method", METHODS)
def test_reads_alike(method, dim, monkeypatch):
    table = frozen(method, dim)
    for count in (0, 1, 63, 64, 65, 1000):
        assert_same(table, *draw(count), monkeypatch)


@pytest.mark.parametrize("dim", [6, 48, 80])
@pytest.mark.parametrize("method", ["full", "int8", "mde", "pep", "robe", "rq", "optembed", "dpq", "qr"])
def test_reads_alike_at_other_widths(method, dim, monkeypatch):
    """Where a row of bits, of signs or of codes takes a fraction of a word, or two words."""
    assert_same(frozen(method, dim), *draw(500), monkeypatch)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("qr", {"mode": "add"}),
        ("qr", {"mode": "concat"}),
        ("qr", {"partitions": 3}),
        ("hash", {"probes": 3}),
        ("unified", {"probes": 1}),
        ("unified", {"probes": 4, "project": True}),
        ("robe", {"block": 1}),
        ("robe", {"block": 6}),
        ("robe", {"block": 12}),
        ("hash_embedding", {"probes": 3}),
        ("memcom", {"bias": False}),
        ("dedup", {"block": 1}),
        ("cce", {"columns": 2}),
    ],
    ids=str,
)
def test_reads_alike_with_options(method, options, monkeypatch):
    assert_same(frozen(method, 12, **options), *draw(500), monkeypatch)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dim", [16, 10, 3])
def test_reads_rows_of_few_bits(bits, dim, monkeypatch):
    """What `slimtab shrink` makes, which no method trains."""
    ids, generator = sum(feature.num_ids for feature in FEATURES), torch.Generator().manual_seed(0)
    codes = torch.randint(1 << bits, (ids, dim), generator=generator).byte()
    lines = torch.randn(ids, 2, generator=generator).half()
    offset = starts(feature.num_ids for feature in FEATURES)
    assert_same(FrozenRowSteps(bits, dim, pack_rows(codes, bits), lines, offset), *draw(500), monkeypatch)


@pytest.mark.parametrize("method", sorted(name for name in METHODS if methods()[name].hashes_ids))
def test_reads_hashed_ids(method, monkeypatch):
    """Ids of 64 bits, of either sign."""
    features = (FEATURES[1], UNEVEN)
    table = frozen(method, 16, features=features)
    generator = torch.Generator().manual_seed(1)
    slot = torch.arange(2).repeat(300)
    far = torch.randint(-(2**63), 2**63 - 1, (600,), generator=generator)
    assert_same(table, torch.where(slot == 0, far % 3000, far), slot, monkeypatch)


@pytest.mark.parametrize("method", METHODS)
def test_threads_share_the_work(method, monkeypatch):
    """A batch so large that it is divided, read by two threads, is the batch read by one."""
    table, (ids, slot) = frozen(method, 16), draw(50_000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.no_grad():
            divided = table(ids, slot)
            torch.set_num_threads(1)
            assert torch.equal(divided, table(ids, slot))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("outside", [len(FEATURES), -1])
@pytest.mark.parametrize("method", METHODS)
def test_a_feature_outside_is_an_error(method, outside):
    """Never another's row."""
    ids, slot = draw(100)
    slot[70] = outside
    with torch.no_grad(), pytest.raises((IndexError, RuntimeError)):
        frozen(method, 16)(ids, slot)


@pytest.mark.parametrize("method", sorted(name for name in METHODS if not methods()[name].hashes_ids))
def test_an_id_far_outside_is_an_error(method):
    """No memory is read but the table's own."""
    ids, slot = draw(100)
    ids[70] = 2**40
    table = frozen(method, 16)
    if method == "adapt":  # deals out whatever number comes
        assert torch.isfinite(table(ids, slot)).all()
        return
    with torch.no_grad(), pytest.raises((IndexError, RuntimeError)):
        table(ids, slot)


@pytest.mark.parametrize("cast", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_reads_a_model_that_was_cast(method, cast, monkeypatch):
    """Where all floats of a model are made others, steps in half precision too."""
    table, (ids, slot) = frozen(method, 16).to(cast), draw(200)
    with torch.no_grad():
        vectors = table(ids, slot)
        torch.testing.assert_close(vectors, plainly(monkeypatch, lambda: table(ids, slot)))
