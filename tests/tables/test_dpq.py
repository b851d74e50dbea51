"""Product codes learned while training: what is looked up, what moves, what is frozen."""

import numpy as np
import pytest
import torch

from slimtab.schema import Feature
from slimtab.tables.base import Clock
from slimtab.tables.dpq import DPQ, DPQConfig
from slimtab.tables.parts.product_codes import nearest_pieces
from slimtab.tables.rows.fused import FusedRowsFactory
from slimtab.tables.rows.optimizer import RowOptimizer
from slimtab.tables.rows.plain import PlainRows

FEATURES = [Feature("a", 500), Feature("b", 5), Feature("c", 700)]
SLOT = torch.repeat_interleave(torch.arange(3), torch.tensor([500, 5, 700]))
IDS = torch.cat([torch.arange(feature.num_ids) for feature in FEATURES])


def build(parts=4, codes=16, exact=(False, True, False), dim=8, make_rows=PlainRows, init_std=1.0):
    torch.manual_seed(0)
    return DPQ(DPQConfig(parts, codes, exact), FEATURES, dim, make_rows, init_std)


def quantised(row, codebook):
    """Replace each part of a row [dim] by the piece of codebook [parts, codes, w] closest to it."""
    parts = np.split(row, len(codebook))
    return np.concatenate(
        [
            pieces[((pieces - part) ** 2).sum(axis=1).argmin()]
            for part, pieces in zip(parts, codebook, strict=True)
        ]
    )


def reference(table):
    """Return vectors of all ids, one after another."""
    rows, codebook = table.rows.values().numpy(), table.codebook.detach().numpy()
    exact = np.array(table.config.exact)[SLOT.numpy()]
    return np.stack(
        [row if full else quantised(row, codebook) for row, full in zip(rows, exact, strict=True)]
    )


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("codes", [4, 32, 256])
def test_lookup_and_frozen_equal_the_obvious_loop(parts, codes):
    """Each part of a row is replaced by its nearest piece; full features keep their rows."""
    table = build(parts, codes, dim=16)
    expected = torch.from_numpy(reference(table))
    torch.testing.assert_close(table(IDS, SLOT).detach(), expected, rtol=0, atol=0)
    torch.testing.assert_close(table.eval().freeze()(IDS, SLOT), expected, rtol=0, atol=0)


def test_wide_vectors_read_more_codes_than_one_word_holds():
    """32 parts of 8 bits are four words of eight bytes."""
    table = build(32, 256, dim=64)
    expected = table(IDS, SLOT).detach()
    torch.testing.assert_close(table.freeze()(IDS, SLOT), expected, rtol=0, atol=0)


def test_rows_receive_the_gradient_of_the_vector_and_pieces_none():
    """Straight through: the row moves as though nothing had replaced it."""
    table = build()
    ids, slot = torch.tensor([3, 2, 3]), torch.tensor([0, 1, 2])
    weight = torch.randn(3, 8)
    (table(ids, slot) * weight).sum().backward()
    expected = torch.zeros(1205, 8)
    expected[torch.tensor([3, 502, 508])] = weight
    assert torch.equal(table.rows.weight.grad, expected)
    assert table.codebook.grad is None


def test_penalty_draws_pieces_to_their_rows_and_leaves_the_rows():
    """Its gradient on a piece is 2 · Σ (piece − part of row) / count, over those that use it."""
    table = build(parts=2, codes=4)
    ids = torch.arange(40)
    table(ids, torch.zeros_like(ids))
    table(ids, torch.full_like(ids, 2))
    penalty = table.penalty()
    penalty.backward()
    queries = np.concatenate([table.rows.values()[:40].numpy(), table.rows.values()[505:545].numpy()])
    codebook = table.codebook.detach().numpy()
    replaced = np.stack([quantised(query, codebook) for query in queries])
    assert penalty.item() == pytest.approx(float(((replaced - queries) ** 2).mean()), rel=1e-5)
    expected = np.zeros_like(codebook)
    for query in queries:
        for part, pieces in enumerate(codebook):
            own = query[4 * part : 4 * part + 4]
            code = ((pieces - own) ** 2).sum(axis=1).argmin()
            expected[part, code] += 2 * (pieces[code] - own) / queries.size
    np.testing.assert_allclose(table.codebook.grad.numpy(), expected, atol=1e-6)
    assert table.rows.weight.grad is None
    assert table.penalty() is None  # each lookup is paid for once


def test_codes_are_fresh_in_eval_and_frozen():
    """Codes remembered from training go stale when pieces move on, or for ids not seen since."""
    table = build(make_rows=FusedRowsFactory(RowOptimizer(lr=0.5)))
    some = torch.arange(10)
    for _ in range(5):
        table(some, torch.zeros_like(some)).square().sum().backward()
        table.rows.step()
    with torch.no_grad():
        table.codebook.copy_(table.codebook.roll(5, dims=1) * 1.5)
        table.eval()
        expected = torch.from_numpy(reference(table))
        torch.testing.assert_close(table(IDS, SLOT), expected, rtol=0, atol=0)
        torch.testing.assert_close(table.freeze()(IDS, SLOT), expected, rtol=0, atol=0)


def test_training_sees_what_serving_answers():
    """q + (piece − q) is not the piece in floats; a model must not be trained on a rounding of it."""
    table = build(init_std=1000.0)
    with torch.no_grad():
        evaluated = table.eval()(IDS, SLOT)
    assert torch.equal(table.train()(IDS, SLOT).detach(), evaluated)


def test_a_batch_of_any_size_finds_the_same_pieces():
    """Ids half-way between two pieces must not turn with the size of the batch they come in."""
    torch.manual_seed(0)
    codebook = torch.randn(2, 256, 8)
    near = (codebook[:, :128] + codebook[:, 128:]) / 2  # exactly between two, and often nearest to both
    queries = near.transpose(0, 1).flatten(1).repeat(5, 1)
    together = nearest_pieces(queries, codebook)
    alone = torch.cat([nearest_pieces(query[None], codebook) for query in queries])
    assert torch.equal(together, alone)


def test_unused_pieces_are_put_where_rows_are():
    """A piece far from all rows is never nearest, so no gradient ever brings it back."""
    table = build(parts=2, codes=16)
    with torch.no_grad():
        table.codebook[:, 3:] = 1e3
    ids = torch.arange(500)
    slot = torch.zeros_like(ids)
    for step in range(101):
        table.on_step(Clock(step, 500, 1000))
        table(ids, slot)
    assert float(table.codebook.detach().abs().max()) < 10
    table.used.zero_()
    table(ids, slot)
    assert table.stats()["pieces_used"] == 1.0


def test_pieces_in_use_are_not_restarted():
    """Restarts must not undo what was learned."""
    table = build(parts=2, codes=4)
    before = table.codebook.detach().clone()
    for step in range(101):
        table.on_step(Clock(step, 500, 1000))
        table(torch.arange(500), torch.zeros(500, dtype=torch.int64))
    assert torch.equal(table.codebook.detach(), before)


def test_lookups_without_gradients_leave_no_trace():
    """Validation must not feed the codebook, nor hold memory."""
    table = build()
    with torch.no_grad():
        table(IDS, SLOT)
    table.eval()(IDS, SLOT)
    assert table.penalty() is None
    assert not bool(table.used.any())


def test_pieces_move_as_rows_do():
    """They stand for rows: the network's learning rate would be too small for them."""
    table = build()
    assert [(parameter is table.codebook, factors) for parameter, factors in table.row_like()] == [(True, 1)]


@pytest.mark.parametrize(("parts", "codes"), [(1, 4), (1, 256), (2, 256), (8, 32)])
def test_vectors_start_with_the_asked_deviation(parts, codes):
    """Short pieces are nearest more often, which alone would start vectors a fifth too small."""
    table = build(parts, codes, (False, False, False), dim=16, init_std=0.02)
    assert float(table(IDS, SLOT).detach().std()) == pytest.approx(0.02, rel=0.1)


def test_tiny_features_stay_full():
    """Their rows cost next to nothing, and their ids are the most frequent."""
    features = [Feature("tiny", 3), Feature("small", 90), Feature("large", 10**6)]
    config = DPQConfig.for_budget(features, 16, 64 * 10**6 // 10)
    assert config.exact == (True, True, False)
    assert (config.parts, config.codes) == (8, 64)


def test_everything_is_full_when_it_may_be():
    """A budget of the whole table leaves nothing to compress, and no codebook to pay for."""
    config = DPQConfig.for_budget(FEATURES, 16, 64 * 1205)
    assert config == DPQConfig(1, 0, (True, True, True))
    table = DPQ(config, FEATURES, 16, PlainRows, 1.0)
    assert table.serve_bytes() == 64 * 1205
    assert torch.equal(table.freeze()(IDS, SLOT), table.rows.values())


def test_more_bytes_never_mean_fewer_bits():
    """And what is served grows with the budget."""
    features = [Feature("a", 100), Feature("b", 3000), Feature("c", 70000), Feature("d", 900)]
    smallest, full = DPQConfig.smallest_bytes(features, 16), 64 * 74000
    configs = [DPQConfig.for_budget(features, 16, nbytes) for nbytes in range(smallest, full, full // 300)]
    sizes = [config.nbytes(features, 16) for config in configs]
    bits = [config.parts * config.code_bits()[0] for config in configs]
    assert sizes == sorted(sizes)
    assert bits == sorted(bits)


def test_serving_bytes_are_codes_codebook_and_full_rows():
    """n · parts · ⌈log2 codes⌉ / 8 for the codes, rounded up to bytes, and one window of padding."""
    table = build(parts=4, codes=32)
    codes = (1200 * 4 * 5 + 7) // 8 + 7
    assert table.serve_bytes() == codes + 4 * 32 * 8 + 4 * 5 * 8
