"""Candidates: scored as the model would score them, sized as they will be served."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from slimtab.collection import TableCollection
from slimtab.models.base import build_model
from slimtab.search.candidates import LEVEL, Candidates, split
from slimtab.search.evolution import starts
from slimtab.testing.fakes import fake_batch, fake_schema

SCHEMA = fake_schema([60, 9, 200, 30], multi_hot=[40])
BATCHES = [fake_batch(SCHEMA, 64, seed) for seed in range(7)]


@pytest.fixture(params=["deepfm", "dlrm", "dcn"])
def model(request):
    torch.manual_seed(0)
    tables = TableCollection.build(SCHEMA.features, 8, "optembed", init_std=0.1)
    made = build_model(request.param, tables, len(SCHEMA.numerics), {})
    with torch.no_grad():
        tables.table.thresholds.fill_(0.3)
    return made.eval()


def drawn(candidates, seed):
    rng = np.random.default_rng(seed)
    return {name: int(rng.integers(g.low, g.high + 1)) for name, g in candidates.space().items()}


def test_auc_is_the_whole_model_s(model):
    """Looking vectors up once per level, and cutting them afterwards, changes no prediction."""
    candidates = Candidates(model, BATCHES)
    table = model.tables.table
    for seed in range(3):
        genes = drawn(candidates, seed)
        shape = candidates.shape(genes)
        mask = (
            torch.arange(8) < torch.tensor(shape.widths).repeat_interleave(torch.tensor(table.sizes))[:, None]
        )
        rows = table.rows.weight
        kept = rows.detach().clone()
        limit = table.thresholds.repeat_interleave(torch.tensor(table.sizes))
        with torch.no_grad():
            passed = (rows.abs().sum(1) > limit) & shape.mask
            rows.copy_(torch.where(mask & passed[:, None], kept, 0.0))
            table.thresholds.fill_(-1.0)
            scores = torch.cat([model(batch) for batch in BATCHES])
            rows.copy_(kept)
            table.thresholds.fill_(0.3)
        label = torch.cat([batch.label for batch in BATCHES])
        assert candidates.auc(genes) == pytest.approx(roc_auc_score(label, scores), abs=1e-6)


def test_ties_count_half(model):
    """All rows alike, where nothing is looked up and nothing is numeric, are no better than chance."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    candidates = Candidates(model, BATCHES)
    assert candidates.auc(drawn(candidates, 0)) == 0.5


def test_bytes_are_those_of_the_frozen_table(model):
    """Width w is charged as w, the bitmap too."""
    candidates = Candidates(model, BATCHES)
    genes = drawn(candidates, 1)
    shape = candidates.shape(genes)
    table = model.tables.table
    table.cut_to(shape)
    table.set_stage("retrain")
    assert candidates.nbytes(shape) == table.freeze().serve_bytes()


def test_starts_owe_nothing_to_validation_rows(model):
    """They follow from energy alone, and one of them just fits the budget."""
    candidates = Candidates(model, BATCHES)
    limit = candidates.nbytes(candidates.shape(drawn(candidates, 2)))
    found = starts(candidates, limit)
    assert found == starts(candidates.on(BATCHES[:1]), limit)
    assert len({tuple(genes.values()) for genes in found}) == len(found)
    sizes = [candidates.nbytes(candidates.shape(genes)) for genes in found]
    assert any(0.8 * limit <= size <= limit for size in sizes)
    assert max(sizes) > limit
    assert all(1 <= w <= 8 for genes in found for name, w in genes.items() if name != LEVEL)


def test_finalists_are_judged_by_rows_the_search_did_not_see():
    some, others = split(BATCHES, rows=150)
    assert sum(len(batch.label) for batch in some) in range(100, 200)
    assert {id(batch) for batch in some + others} == {id(batch) for batch in BATCHES}
    assert len(some) + len(others) == len(BATCHES)
    assert split(BATCHES[:1]) == (BATCHES[:1], BATCHES[:1])
