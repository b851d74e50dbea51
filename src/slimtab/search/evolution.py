"""The search: a study filled generation by generation, and the front of what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from optuna.study import Study

from slimtab.search.candidates import LEVEL, Candidates
from slimtab.search.sampler import EvolutionSampler, Genes
from slimtab.tables.shape import Shape


@dataclass(frozen=True)
class Point:
    """A candidate on the front.

    Attributes:
        genes: its genes.
        shape: what it keeps.
        nbytes: what it serves.
        auc: on all validation rows, in the supernet.
    """

    genes: Genes
    shape: Shape
    nbytes: int
    auc: float


def evolve(
    study: Study,
    sampler: EvolutionSampler,
    candidates: Candidates,
    trials: int,
    limit: int | None = None,
    told: Callable[[int, float, int], None] = lambda number, auc, nbytes: None,
) -> None:
    """Score candidates until the study holds ``trials`` of them; what it holds already counts.

    A study of two directions seeks a front: AUC to maximise, bytes to minimise. One of a single direction
    seeks the AUC within ``limit`` bytes; what is larger is not scored and ranks below, the larger the lower.

    Args:
        study: where candidates go.
        sampler: makes children.
        candidates: scores them.
        trials: to reach.
        limit: bytes that a study of one direction allows.
        told: of each trial's number, AUC and bytes.
    """
    known = [trial.params for trial in study.get_trials(deepcopy=False)]
    # The first process begins with what is likely to be good, and all go on from there.
    first = [genes for genes in _starts(candidates) if genes not in known] if sampler.worker == 0 else []
    while (number := len(study.get_trials(deepcopy=False))) < trials:
        genes, generation = sampler.propose(study)
        if first:
            genes = first.pop(0)
        nbytes = candidates.nbytes(candidates.shape(genes))
        if len(study.directions) == 1 and limit is not None and nbytes > limit:
            sampler.add(study, genes, generation, [-nbytes / limit])
            continue
        auc = candidates.auc(genes)
        sampler.add(study, genes, generation, [auc, nbytes][: len(study.directions)])
        told(number, auc, nbytes)


def _starts(candidates: Candidates) -> list[Genes]:
    """Return the candidates that the first generation has beside random ones: rich ones of several sizes."""
    space, sizes = candidates.space(), candidates.table.sizes
    levels = range(0, space[LEVEL].high + 1, 3)
    starts: dict[tuple[int, ...], Genes] = {}
    for level in levels:
        rows = max(candidates.rows(level), len(sizes))
        for width in {candidates.table.dim, candidates.table.dim // 4}:
            genes = candidates.richest(level, rows * width)
            starts[tuple(genes.values())] = genes
    return list(starts.values())


def front(study: Study, sampler: EvolutionSampler, candidates: Candidates) -> Iterator[Point]:
    """Yield the finalists that none beats in both AUC and bytes, from small to large.

    Finalists are the elite of the search; they are scored anew, because few rows flatter whom they chose.

    Args:
        study: a finished search.
        sampler: knows the elite.
        candidates: scores on all validation rows.
    """
    points = []
    for trial in sampler.elite(study):
        genes = dict(trial.params)
        shape = candidates.shape(genes)
        points.append(Point(genes, shape, candidates.nbytes(shape), candidates.auc(genes)))
    best = -1.0
    for point in sorted(points, key=lambda point: (point.nbytes, -point.auc)):
        if point.auc > best:
            best = point.auc
            yield point
