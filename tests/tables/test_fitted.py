"""Codes that never train: what they stand for, and that a file and its settings rebuild them."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from slimtab.errors import SlimtabError
from slimtab.schema import Feature
from slimtab.tables.fitted.base import empty_table
from slimtab.tables.fitted.binary import Binary, FrozenBinary, signs
from slimtab.tables.fitted.own_codes import OwnCodes
from slimtab.tables.fitted.row_steps import FrozenRowSteps, RowSteps, pack_rows
from slimtab.tables.grouped import group_tables
from slimtab.tables.parts.codes import pack_codes
from slimtab.tables.parts.own_codes import Shape, pack_own_codes
from slimtab.tables.parts.starts import starts

FEATURES = (Feature("a", 90), Feature("b", 37))
IDS = torch.cat([torch.arange(90), torch.arange(37)])
SLOT = torch.repeat_interleave(torch.arange(2), torch.tensor([90, 37]))
DIM = 6


def row_steps(bits):
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, (127, DIM)).astype(np.uint8)
    lines = rng.standard_normal((127, 2)).astype(np.float16)
    table = FrozenRowSteps(
        bits, DIM, pack_rows(torch.from_numpy(codes), bits), torch.from_numpy(lines), starts([90, 37])
    )
    lines = lines.astype(np.float32)
    return RowSteps(bits), table, lines[:, :1] + codes * lines[:, 1:]


def binary():
    rng = np.random.default_rng(0)
    config = Binary(3, 4)
    numbers = rng.integers(0, 8, (127, 4))
    lengths = rng.random((127, 1)).astype(np.float16)
    rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0][:4].astype(np.float32)
    packed = pack_codes(torch.from_numpy(numbers), 3)
    table = FrozenBinary(
        config, packed, torch.from_numpy(lengths), torch.from_numpy(rotation), starts([90, 37])
    )
    planes = [(numbers >> 2 & 1) * 2 - 1, ((numbers >> 1 & 1) * 2 - 1) / 2, ((numbers & 1) * 2 - 1) / 4]
    return config, table, (sum(planes) * lengths.astype(np.float32)) @ rotation


def own():
    rng = np.random.default_rng(0)
    shapes = [Shape(3, 5), Shape(4, 2)]
    codes = [
        rng.integers(0, 1 << bits, (count, levels))
        for (bits, levels), count in zip(shapes, (90, 37), strict=True)
    ]
    words = [rng.standard_normal((levels << bits, DIM)).astype(np.float16) for bits, levels in shapes]
    table = pack_own_codes(
        shapes, list(map(torch.from_numpy, codes)), torch.from_numpy(np.concatenate(words))
    )
    sums = [
        sum(w.astype(np.float32)[(level << bits) + c[:, level]] for level in range(levels))
        for c, w, (bits, levels) in zip(codes, words, shapes, strict=True)
    ]
    return OwnCodes([3, 4], [5, 2]), table, np.concatenate(sums)


MADE = {"int8": lambda: row_steps(8), "int4": lambda: row_steps(4), "int2": lambda: row_steps(2)}
MADE |= {"binary": binary, "own": own}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
class TestCodes:
    def test_vectors_equal_numpy(self, made):
        """Each code written out bit by bit."""
        _, table, expected = made()
        np.testing.assert_allclose(table(IDS, SLOT).numpy(), expected, rtol=1e-5, atol=1e-6)

    def test_settings_and_tensors_rebuild_it(self, made):
        """The file and its card are all that serving has."""
        config, table, _ = made()
        again = empty_table(config.method, dataclasses.asdict(config), FEATURES, DIM)
        again.load_state_dict(table.state_dict())
        assert torch.equal(again(IDS, SLOT), table(IDS, SLOT))
        assert list(table.parameters()) == []
        assert torch.equal(pickle.loads(pickle.dumps(table))(IDS, SLOT), table(IDS, SLOT))

    def test_exports_with_a_dynamic_batch(self, made):
        _, table, _ = made()
        rows = torch.export.Dim("rows", min=2)
        program = torch.export.export(table, (IDS[:64], SLOT[:64]), dynamic_shapes=({0: rows}, {0: rows}))
        torch.testing.assert_close(program.module()(IDS, SLOT), table(IDS, SLOT))


@pytest.mark.parametrize(("bits", "nbytes"), [(8, 16 + 4), (4, 8 + 4), (2, 4 + 4)])
def test_rows_of_sixteen_are_a_whole_number_of_bytes(bits, nbytes):
    """int2 is an eighth of the float row, to the byte; nothing is padded."""
    config = RowSteps(bits)
    assert config.nbytes(1000, 16) == 1000 * nbytes
    assert config.empty([Feature("a", 1000)], 16).serve_bytes() == 1000 * nbytes


def test_signs_have_halving_weights():
    """b₀ + ½ b₁ + ¼ b₂: eight sums, evenly spaced, none of them zero."""
    assert signs(torch.arange(8), 3).tolist() == [-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75]


@pytest.mark.parametrize("bent", [False, True])
def test_distances_are_taken_between_codes(bent):
    """Of the vectors that are served, also once fine-tuning has made the rotation any matrix."""
    _, table, vectors = binary()
    if bent:
        table.rotation.copy_(torch.randn(table.rotation.shape, generator=torch.Generator().manual_seed(0)))
        vectors = table(IDS, SLOT).numpy()
    apart = table.distance(IDS[:37], SLOT[:37], IDS[90:], SLOT[90:])
    expected = ((vectors[:37] - vectors[90:]) ** 2).sum(1)
    np.testing.assert_allclose(apart.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_codes_stand_in_groups():
    """A mixture has a code for each of some features, and is rebuilt as one."""
    parts = [pack_own_codes([Shape(2, 1)], [torch.tensor([[3], [1]])], torch.randn(4, DIM))]
    parts += [RowSteps(8).empty([Feature("b", 3)], DIM)]
    whole = group_tables([(1,), (0,)], parts, DIM)
    plain = [
        {"slots": (1,), "method": "own_codes", "config": {"bits": [2], "levels": [1]}},
        {"slots": (0,), "method": "row_steps", "config": {"bits": 8}},
    ]
    again = empty_table("grouped", {"groups": plain}, [Feature("b", 3), Feature("a", 2)], DIM)
    again.load_state_dict(whole.state_dict())
    ids, slot = torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0])
    assert torch.equal(again(ids, slot), whole(ids, slot))
    assert torch.equal(whole(ids, slot)[:2], parts[0](ids[:2], torch.zeros(2, dtype=torch.int64)))


def test_an_unknown_code_is_named():
    with pytest.raises(SlimtabError, match="no method 'int5'"):
        empty_table("int5", {}, FEATURES, DIM)
