"""Product codes in two tiers: frequent ids may use all of them, rare ones a quarter."""

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.mgqe import MGQE, MGQEConfig
from slimtab.tables.parts.packing import unpack
from slimtab.tables.rows.plain import PlainRows

FEATURES = [Feature("a", 3000), Feature("b", 5), Feature("c", 777)]
SLOT = torch.repeat_interleave(torch.arange(3), torch.tensor([3000, 5, 777]))
IDS = torch.cat([torch.arange(feature.num_ids) for feature in FEATURES])
HOT = (torch.tensor([300, 0, 78])[SLOT] > IDS).numpy()  # a tenth, rounded up; b stays full


def build(parts=4, codes=256, dim=8):
    torch.manual_seed(0)
    return MGQE(MGQEConfig(parts, codes, (False, True, False)), FEATURES, dim, PlainRows, 1.0)


def reference(table):
    """Return codes [n, parts] and vectors [n, dim] of all ids, one after another."""
    rows, codebook = table.rows.values().numpy(), table.codebook.detach().numpy()
    codes, vectors = [], []
    for row, hot in zip(rows, HOT, strict=True):
        few = codebook if hot else codebook[:, : codebook.shape[1] // 4]
        found = [
            ((pieces - part) ** 2).sum(axis=1).argmin()
            for pieces, part in zip(few, np.split(row, len(few)), strict=True)
        ]
        codes.append(found)
        vectors.append(np.concatenate([pieces[code] for pieces, code in zip(few, found, strict=True)]))
    exact = (SLOT == 1).numpy()
    return np.array(codes), np.where(exact[:, None], rows, np.array(vectors))


@pytest.mark.parametrize(("parts", "codes"), [(1, 8), (2, 256), (4, 32), (4, 256), (8, 256)])
def test_lookup_and_frozen_equal_the_obvious_loop(parts, codes):
    """Frequent ids search the whole codebook, rare ones its first quarter, full features keep their rows."""
    table = build(parts, codes, dim=16)
    expected = torch.from_numpy(reference(table)[1])
    torch.testing.assert_close(table(IDS, SLOT).detach(), expected, rtol=0, atol=0)
    torch.testing.assert_close(table.freeze()(IDS, SLOT), expected, rtol=0, atol=0)


def test_wide_vectors_read_more_codes_than_one_word_holds():
    """32 parts of 8 bits are four words of eight bytes, of 6 bits three."""
    table = build(32, 256, dim=64)
    expected = table(IDS, SLOT).detach()
    torch.testing.assert_close(table.freeze()(IDS, SLOT), expected, rtol=0, atol=0)


def test_rare_ids_never_use_a_code_from_64_on():
    """Six bits would not hold it; frequent ids do use them."""
    table = build()
    frozen, codes = table.freeze(), reference(table)[0]
    coded = (SLOT != 1).numpy()
    hot_bytes = (378 * 4 * 8) // 8 + 7
    hot = unpack(frozen.packed[:hot_bytes], torch.arange(378), 4, 8)
    rare = unpack(frozen.packed[hot_bytes:], torch.arange(3399), 4, 6)
    assert np.array_equal(hot.numpy(), codes[coded & HOT])
    assert np.array_equal(rare.numpy(), codes[coded & ~HOT])
    assert int(hot.max()) >= 64 > int(rare.max())


def test_frequent_ids_are_told_by_their_number():
    """A flag per id would cost a bit, or four bytes in the public code; here nothing is stored for it."""
    table = build()
    hot, rare = (378 * 32) // 8 + 7, -(-3399 * 24 // 8) + 7
    assert table.serve_bytes() == hot + rare + 4 * 256 * 8 + 4 * 5 * 8


def test_id_0_is_always_frequent():
    """The out-of-vocabulary id stands for many."""
    assert [MGQEConfig().hot_ids(size) for size in (1, 9, 10, 11, 1000)] == [1, 1, 1, 2, 100]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_is_none_is_refused(share):
    """All or no ids frequent would be dpq."""
    with pytest.raises(SlimtabError, match="hot_share between 0 and 1"):
        MGQEConfig.for_budget(FEATURES, 8, 10**6, hot_share=share)


def test_the_same_bytes_buy_more_codes_than_for_all_ids_alike():
    """That is what the tiers are for: at 11 % of the bytes frequent ids choose among 256 pieces."""
    from slimtab.tables.dpq import DPQConfig

    features = [Feature("large", 10**6)]
    nbytes = 64 * 10**6 // 10
    tiers, alike = (config.for_budget(features, 16, nbytes) for config in (MGQEConfig, DPQConfig))
    assert (tiers.parts, tiers.codes) == (8, 256)
    assert (alike.parts, alike.codes) == (8, 64)
