"""Residual codes: sums of codewords, fitted where the loss feels them."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.rows import FusedRowsFactory, PlainRows, RowOptimizer
from slimtab.tables.rq import RQ, FrozenRQ, RQConfig, encode

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
    found = encode(torch.from_numpy(vectors), torch.from_numpy(words), config)
    assert found.tolist() == codes
    frozen = FrozenRQ(found, torch.from_numpy(words), config, torch.tensor([0, 900]))
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
    codes = encode(table.rows.values()[[1, 2, 901]], table.codewords.detach().half().float(), table.config)
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
