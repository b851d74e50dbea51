"""What a search costs: its candidates against as many plain validation passes, interleaved in one run.

    python benchmarks/search.py DATA [--generations 30]

DATA is a prepared dataset folder. The supernet is not trained: that changes no time. After every
five generations the validation rows are scored ten times as training scores them. Prints a JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from slimtab.collection import TableCollection
from slimtab.data.loader import Loader
from slimtab.data.vocabulary import load_counts
from slimtab.models.base import build_model
from slimtab.schema import Schema
from slimtab.search.candidates import Candidates, split
from slimtab.search.evolution import evolve, finalists
from slimtab.search.sampler import EvolutionSampler
from slimtab.training.metrics import evaluate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", type=Path)
parser.add_argument("--generations", type=int, default=30)
args = parser.parse_args()
POPULATION, EVERY = 20, 5

optuna.logging.set_verbosity(optuna.logging.WARNING)
torch.manual_seed(0)
schema = Schema.load(args.data / "schema.json")
tables = TableCollection.build(schema.features, 16, "optembed", counts=load_counts(args.data, schema))
model = build_model("deepfm", tables, len(schema.numerics), {})
passes, searching = [], 0.0
limit = schema.full_bytes(16) // 10

with tempfile.TemporaryDirectory() as folder:
    storage = JournalStorage(JournalFileBackend(f"{folder}/study"))
    study = optuna.create_study(storage=storage, directions=["maximize", "minimize"])
    began = time.perf_counter()
    batches = list(Loader(args.data, "valid", 1024, shuffle=False))
    sample, others = split(batches)
    some = Candidates(model, sample)
    sampler = EvolutionSampler(some.space(), population=POPULATION)
    searching += time.perf_counter() - began
    for generation in range(EVERY, args.generations + 1, EVERY):
        for _ in range(10):
            began = time.perf_counter()
            evaluate(model, Loader(args.data, "valid", 4096, shuffle=False))
            passes.append(time.perf_counter() - began)
        began = time.perf_counter()
        evolve(study, sampler, some, generation * POPULATION, limit)
        searching += time.perf_counter() - began
    began = time.perf_counter()
    points = finalists(study, sampler, some.on(others), limit)
    searching += time.perf_counter() - began

candidates = args.generations * POPULATION
plain = candidates * statistics.median(passes)
print(
    json.dumps(
        {
            "candidates": candidates,
            "finalists": len(points),
            "search_seconds": round(searching, 2),
            "pass_seconds": round(statistics.median(passes), 4),
            "search_of_plain_passes": round(searching / plain, 3),
        }
    )
)
