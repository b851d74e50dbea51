"""A byte budget is a promise: never above it, and at least 95 % of it where the method's steps allow.

Serving bytes are summed over the buffers of the frozen table, built on torch's meta device, so tables of
hundreds of millions of rows cost nothing here.
"""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slimtab.data.kaggle import CRITEO_KAGGLE
from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.base import get_method, in_last_stage, methods
from slimtab.tables.rows.plain import PlainRows

SIZES = st.lists(
    st.one_of(st.integers(1, 300), st.integers(1, 100_000), st.integers(1, 10**7)), min_size=1, max_size=60
)
SHARE = st.floats(0.001, 1.0)


def features_of(sizes):
    return [Feature(f"C{number}", size) for number, size in enumerate(sizes)]


def frozen_bytes(method, features, dim, nbytes, **options):
    """Build what the budget allows and count the buffers of its frozen form."""
    table = get_method(method)
    with torch.device("meta"):
        built = table(
            table.Config.for_budget(features, dim, nbytes, **options), features, dim, PlainRows, 0.1
        )
        frozen = in_last_stage(built).freeze()
        counted = sum(t.numel() * t.element_size() for t in frozen.state_dict().values())
        assert frozen.serve_bytes() == built.serve_bytes() == counted
        assert sum(built.bytes_by_feature()) == counted
        return counted


@settings(deadline=None, max_examples=60)
@given(sizes=SIZES, dim=st.integers(4, 128), share=SHARE, probes=st.sampled_from([1, 2, 4]))
def test_hash(sizes, dim, share, probes):
    """Its step is one row of one feature; beyond the ids there are, it has nothing to spend bytes on."""
    features = features_of(sizes)
    nbytes = int(share * 4 * dim * sum(sizes))
    assume(nbytes >= get_method("hash").Config.smallest_bytes(features, dim, probes=probes))
    counted = frozen_bytes("hash", features, dim, nbytes, probes=probes)
    assert counted <= nbytes
    whole = 4 * dim * sum(sizes) + 8 * len(sizes) * (probes + 1)
    assert counted >= min(0.95 * nbytes, whole) or counted > nbytes - 4 * dim


@settings(deadline=None, max_examples=60)
@given(
    sizes=SIZES,
    width=st.integers(1, 32),
    share=SHARE,
    probes=st.sampled_from([1, 2, 4]),
    project=st.booleans(),
)
def test_unified(sizes, width, share, probes, project):
    """Its step is one narrow row; salts and projections are counted."""
    dim, features = width * probes, features_of(sizes)
    options = {"probes": probes, "project": project}
    nbytes = int(share * 4 * dim * sum(sizes))
    assume(nbytes >= get_method("unified").Config.smallest_bytes(features, dim, **options))
    counted = frozen_bytes("unified", features, dim, nbytes, **options)
    assert nbytes - 4 * width < counted <= nbytes


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES, dim=st.integers(1, 128), extra=st.integers(0, 10**9))
def test_full_takes_exactly_its_rows(sizes, dim, extra):
    """4 · n · dim, not a byte more: the denominator of every share."""
    exact = 4 * dim * sum(sizes)
    assert frozen_bytes("full", features_of(sizes), dim, exact + extra) == exact
    with pytest.raises(SlimtabError, match=f"its smallest size here is .*{exact} bytes"):
        frozen_bytes("full", features_of(sizes), dim, exact - 1)


@settings(deadline=None, max_examples=40)
@given(method=st.sampled_from(["full", "hash", "unified"]), sizes=SIZES, dim=st.sampled_from([4, 16, 64]))
def test_the_smallest_size_is_real_and_named(method, sizes, dim):
    """The error is an instruction: the size it names must work, and one byte less must not."""
    features, config = features_of(sizes), get_method(method).Config
    smallest = config.smallest_bytes(features, dim)
    assert frozen_bytes(method, features, dim, smallest) <= smallest
    with pytest.raises(SlimtabError, match=f"^{method} cannot fit .*{smallest} bytes"):
        config.for_budget(features, dim, smallest - 1)


@settings(deadline=None, max_examples=40)
@given(method=st.sampled_from(["hash", "unified"]), sizes=SIZES, low=SHARE, high=SHARE)
def test_more_budget_is_never_a_smaller_table(method, sizes, low, high):
    """A sweep over budgets must be monotone in bytes."""
    features, full = features_of(sizes), 64 * sum(sizes)
    low, high = sorted((int(low * full), int(high * full)))
    assume(low >= get_method(method).Config.smallest_bytes(features, 16))
    assert frozen_bytes(method, features, 16, low) <= frozen_bytes(method, features, 16, high)


def test_every_method_counts_every_buffer():
    """Holds for methods that come later too: half the full table is kept to, or the error says why not."""
    features = features_of([100, 5000, 20_000])
    for name in methods():
        full = 4 * 16 * 25_100
        try:
            counted = frozen_bytes(name, features, 16, full // 2)
        except SlimtabError as error:
            assert "smallest size" in str(error)  # noqa: PT017 (both outcomes are right)
            continue
        assert counted <= full // 2


KAGGLE = CRITEO_KAGGLE[:14]


@pytest.mark.parametrize(("share", "exact_up_to"), [(0.1, 200), (0.02, 40), (0.5, 1000)])
def test_tiny_features_stay_exact_under_hash(share, exact_up_to):
    """Hashing 24 countries onto 2 rows saves nothing and destroys a feature."""
    features = features_of(KAGGLE)
    config = get_method("hash").Config.for_budget(features, 16, int(share * 64 * sum(KAGGLE)))
    for size, rows in zip(KAGGLE, config.rows, strict=True):
        if size <= 0.95 * exact_up_to:
            assert rows == size
        elif size > 1.05 * exact_up_to:
            assert rows < size


def test_many_tiny_features_may_not_break_the_budget():
    """When exact features alone exceed the budget they are hashed too, instead of an error."""
    assert frozen_bytes("hash", features_of([100] * 50), 16, 64 * 5000 // 10) <= 64 * 5000 // 10


@pytest.mark.parametrize("encoding", ["vocab", "hash"])
def test_budgets_of_hashed_ids(encoding):
    """Under --ids hash the number of ids is an estimate, and bytes are counted the same way."""
    features = [Feature("a", 50_000, encoding), Feature("b", 20, encoding)]
    for method in ("hash", "unified"):
        assert 0.95 * 320_128 <= frozen_bytes(method, features, 16, 320_128) <= 320_128
