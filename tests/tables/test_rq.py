"""Residual codes: sums of codewords, fitted where the loss feels them."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.fitted.base import empty_table
from slimtab.tables.grouped import read_config
from slimtab.tables.parts.common_codes import FrozenCommonCodes
from slimtab.tables.parts.residual import encode
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows
from slimtab.tables.rq import RQ, RQConfig

FEATURES = [Feature("a", 900), Feature("b", 100)]


def build(levels=(4, 4, 4), make_rows=PlainRows, init_std=1.0):
    torch.manual_seed(0)
    return RQ(RQConfig(levels), FEATURES, 8, make_rows, init_std)


def every_id():
    ids = torch.cat([torch.arange(900), torch.arange(100)])
    return ids, torch.repeat_interleave(torch.arange(2), torch.tensor([900, 100]))


def test_codes_and_frozen_vectors_equal_numpy():
    """Greedy residual coding, written out vector by vector; levels of different sizes."""
    rng = np.random.default_rng(0)
    config = RQConfig((3, 3, 2))
    vectors = rng.standard_normal((1000, 5), dtype=np.float32)
    words = rng.standard_normal((20, 5)).astype(np.float16).astype(np.float32)
    codes, sums = [], []
    for vector in vectors:
        left, own = vector.copy(), []
        for start, stop in ((0, 8), (8, 16), (16, 20)):
            own.append(int(((left - words[start:stop]) ** 2).sum(1).argmin()))
            left = left - words[start + own[-1]]
        codes.append(own)
        sums.append(vector - left)
    found = encode(torch.from_numpy(vectors), torch.from_numpy(words), config.levels)
    assert found.tolist() == codes
    frozen = FrozenCommonCodes(found, torch.from_numpy(words), config.levels, torch.tensor([0, 900]))
    ids, slot = every_id()
    np.testing.assert_allclose(frozen(ids, slot).numpy(), np.stack(sums), rtol=1e-4, atol=1e-5)
    assert frozen.serve_bytes() == config.serve_bytes(1000, 5) == 1000 + 7 + 20 * 5 * 2


def test_the_first_stage_is_a_full_table():
    """Codes are fitted to trained rows, not to noise."""
    table, (ids, slot) = build(), every_id()
    assert torch.equal(table(ids, slot), table.rows.values())


def test_each_level_brings_codes_closer():
    """Continuity at the change of stage: the more levels, the less the vectors move."""
    ids, slot = every_id()
    errors = []
    for levels in ((4,), (4, 4), (4, 4, 4)):
        table = build(levels)
        before = table(ids, slot).detach()
        table.set_stage("code")
        errors.append(float((table(ids, slot).detach() - before).square().mean()))
    assert errors[0] < 0.75
    assert errors[0] > 1.3 * errors[1] > 1.3**2 * errors[2]


def test_codes_follow_their_rows():
    """Stale codes were a bug of public code: what is frozen is coded from the rows as they are now."""
    table, (ids, slot) = build(), every_id()
    table.set_stage("code")
    before = table.freeze()(ids, slot)
    with torch.no_grad():
        table.rows.weight[:5] = -table.rows.weight[:5]
    after = table.freeze()(ids, slot)
    assert (after[:5] != before[:5]).any(1).all()
    assert torch.equal(after[5:], before[5:])


def test_gradients_reach_codewords_and_rows():
    """Straight through: the row gets its vector's gradient whole, each codeword the sum over its ids."""
    table = build((4, 4))
    table.set_stage("code")
    ids, slot = torch.tensor([1, 2, 1]), torch.tensor([0, 0, 1])
    weight = torch.randn(3, 8)
    (table(ids, slot) * weight).sum().backward()
    torch.testing.assert_close(table.rows.weight.grad[[1, 2, 901]], weight)
    codes = encode(
        table.rows.values()[[1, 2, 901]], table.codewords.detach().half().float(), table.config.levels
    )
    expected = torch.zeros(32, 8).index_add_(0, codes[:, 0], weight).index_add_(0, 16 + codes[:, 1], weight)
    torch.testing.assert_close(table.codewords.grad, expected)


def test_the_penalty_is_the_distance_to_the_codes():
    """Both sides are pulled: a quarter of twice the mean squared error, once per lookup."""
    table, (ids, slot) = build(), every_id()
    assert table.penalty() is None
    table.set_stage("code")
    coded = table(ids, slot).detach()
    apart = (coded - table.rows.values()).square().mean()
    assert float(table.penalty().detach()) == pytest.approx(0.25 * 2 * float(apart), rel=1e-5)
    assert table.penalty() is None


def test_what_the_loss_feels_is_coded_best():
    """Ids with large gradients get the codewords."""
    table = build((4,), FusedRowsFactory(RowOptimizer("rowwise_adagrad", lr=0.0)))
    ids, slot = every_id()
    strength = torch.ones(1000)
    strength[:30] = 100.0
    for _ in range(3):
        table.rows.zero_grad()
        (table(ids, slot) * strength[:, None]).sum().backward()
        table.rows.step()
    before = table.rows.values()
    table.set_stage("code")
    with torch.no_grad():
        error = (table(ids, slot) - before).square().mean(1)
    assert float(error[:30].mean()) < 0.5 * float(error[30:].mean())


def test_a_level_is_filled_before_the_next_begins():
    """Eight bits in one code say more than four times two."""
    features = [Feature("a", 100_000)]
    full = 64 * 100_000
    found = [RQConfig.for_budget(features, 16, int(share * full)) for share in (0.005, 0.01, 0.02, 0.05, 0.5)]
    levels = [config.levels for config in found]
    assert levels == [(2,), (5,), (8, 1), (8, 8, 7), (8, 8, 8, 8, 8, 8, 8, 1)]


def test_too_small_a_budget_names_the_smallest():
    """A bit per id, and two codewords."""
    with pytest.raises(SlimtabError, match="smallest size here is"):
        RQConfig.for_budget(FEATURES, 8, 100)


def test_freezing_before_codes_exist_says_so():
    """The first stage has nothing to serve at the claimed size."""
    with pytest.raises(SlimtabError, match="stage 'code'"):
        build().freeze()


DIFFERENT = [Feature("a", 900), Feature("b", 300), Feature("c", 3)]


def chosen(levels=(4, 4), features=DIFFERENT):
    """A table whose features differ in size and scale, in its second stage as the trainer enters it."""
    torch.manual_seed(0)
    table = RQ(RQConfig(levels), features, 8, PlainRows, 1.0)
    with torch.no_grad():
        table.rows.weight[900:1200] *= 5
    table.choose("code")
    table.set_stage("code")
    return table


def each_id(features):
    sizes = torch.tensor([feature.num_ids for feature in features])
    ids = torch.cat([torch.arange(size) for size in sizes.tolist()])
    return ids, torch.repeat_interleave(torch.arange(len(features)), sizes)


def test_features_that_differ_have_codewords_of_their_own():
    """More bits go to the larger vectors, all within the bytes of common codes, and closer than those."""
    table, (ids, slot) = chosen(), each_id(DIFFERENT)
    bits = table.stats_by_feature()["code_bits"]
    assert bits["b"] > bits["a"]
    shared = RQ(RQConfig((4, 4)), DIFFERENT, 8, PlainRows, 1.0)
    shared.rows.assign(table.rows.values())
    shared.set_stage("code")
    rows = table.rows.values()
    with torch.no_grad():
        own, common = ((each(ids, slot) - rows).square().sum() for each in (table, shared))
    assert own < 0.8 * common
    assert 0.9 * shared.serve_bytes() < table.serve_bytes() <= shared.serve_bytes()
    assert sum(table.bytes_by_feature()) == table.serve_bytes()


def test_own_codewords_are_served_as_they_were_trained():
    """Frozen equals eval on every id, and a table built from the config takes the state."""
    table, (ids, slot) = chosen(), each_id(DIFFERENT)
    mixed = torch.randperm(len(ids))
    with torch.no_grad():
        before = table(ids[mixed], slot[mixed])
    torch.testing.assert_close(table.freeze()(ids[mixed], slot[mixed]), before)
    plain = json.loads(json.dumps(asdict(table.config)))
    kind, config = read_config("rq", plain)
    again = kind(config, DIFFERENT, 8, PlainRows, 0.0)
    again.set_stage("code")
    again.load_state_dict(table.state_dict())
    with torch.no_grad():
        assert torch.equal(again(ids[mixed], slot[mixed]), before)
    empty = empty_table("rq", plain, DIFFERENT, 8)
    empty.load_state_dict(table.freeze().state_dict())
    assert torch.equal(empty(ids, slot), table.freeze()(ids, slot))


def test_shapes_that_are_named_are_kept():
    """Rules may say what each feature gets; training chooses nothing else, and every byte is as planned."""
    config = RQConfig.for_budget(DIFFERENT, 8, 9000, own_bits=[6, 4, 2], own_levels=[2, 3, 1])
    table = RQ(config, DIFFERENT, 8, PlainRows, 1.0)
    table.choose("code")
    table.set_stage("code")
    assert table.config == config
    assert table.config.shapes == [(6, 2), (4, 3), (2, 1)]
    assert table.serve_bytes() == RQConfig.smallest_bytes(
        DIFFERENT, 8, own_bits=[6, 4, 2], own_levels=[2, 3, 1]
    )


def test_codewords_that_all_share_are_kept():
    table = RQ(RQConfig((4, 4), own=False), DIFFERENT, 8, PlainRows, 1.0)
    table.choose("code")
    assert not table.config.own_bits


@pytest.mark.parametrize(
    ("bits", "levels", "words"),
    [
        ([6, 4], [2, 3, 1], "own_bits has 2 numbers for 3 features"),
        ([6, 4, 2], [2, 3], "own_levels has 2 numbers for 3 features"),
        ([6, 4, 2], [], "own_levels has 0 numbers for 3 features"),
        ([6, 4, 9], [2, 3, 1], "cannot code a feature in 1 levels of 9 bits"),
        ([6, 4, 8], [2, 3, 8], "cannot code a feature in 8 levels of 8 bits"),
        ([6, 4, 0], [2, 3, 1], "cannot code a feature in 1 levels of 0 bits"),
        ([6, 4, "x"], [2, 3, 1], "cannot code a feature in 1 levels of 'x' bits"),
    ],
)
def test_wrong_shapes_are_explained(bits, levels, words):
    with pytest.raises(SlimtabError, match=words):
        RQConfig.for_budget(DIFFERENT, 8, 9000, own_bits=bits, own_levels=levels)


def test_where_features_are_alike_all_share():
    """Codewords of one's own would take bytes from the codes, and say nothing more."""
    torch.manual_seed(0)
    features = [Feature(str(number), 200) for number in range(8)]
    table = RQ(RQConfig((6,)), features, 8, PlainRows, 1.0)
    table.choose("code")
    assert table.config == RQConfig((6,))
