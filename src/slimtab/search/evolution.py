"""The search: a study filled generation by generation, and the front of what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optuna.study import Study

from slimtab.errors import SlimtabError
from slimtab.hull import hull
from slimtab.search.candidates import LEVEL, Candidates
from slimtab.search.sampler import EvolutionSampler, Genes
from slimtab.sizes import format_bytes
from slimtab.tables.parts.cut import fixed_bytes
from slimtab.tables.parts.shape import Shape


@dataclass(frozen=True)
class Point:
    """A candidate that came through.

    Attributes:
        genes: its genes.
        shape: what it keeps.
        nbytes: what it serves.
        auc: in the supernet, on validation rows that the search did not see.
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
        limit: bytes of the budget; a study of one direction allows no more.
        told: of each trial's number, AUC and bytes.
    """
    known = [trial.params for trial in study.get_trials(deepcopy=False)]
    # The first process begins with what is likely to be good, and all go on from there.
    first = [g for g in starts(candidates, limit) if g not in known] if sampler.worker == 0 else []
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


def starts(candidates: Candidates, limit: int | None = None) -> list[Genes]:
    """Return what energy alone would choose: widths of three means, and what fits, for every other level.

    The search begins with them, and none may beat them unseen: they owe nothing to any validation row.

    Args:
        candidates: know energies.
        limit: bytes of the budget, where there is one.
    """
    table, found = candidates.table, list[Genes]()
    for level in range(0, candidates.space()[LEVEL].high + 1, 2):
        rows = max(candidates.rows(level), len(table.sizes))
        rooms = {rows * table.dim // part for part in (1, 2, 4)}
        if limit is not None:
            rooms.add(max(len(table.sizes), (limit - fixed_bytes(table.sizes)) // 4 - table.dim))
        for room in sorted(rooms, reverse=True):
            genes = candidates.richest(level, room)
            if genes not in found:
                found.append(genes)
    return found


def finalists(
    study: Study, sampler: EvolutionSampler, candidates: Candidates, limit: int | None = None
) -> list[Point]:
    """Return the elite of a search and what it began with, from small to large.

    Args:
        study: a finished search.
        sampler: knows the elite.
        candidates: score on rows that the search did not see.
        limit: bytes of the budget, where there is one.
    """
    found = starts(candidates, limit)
    found += [genes for trial in sampler.elite(study) if (genes := dict(trial.params)) not in found]
    points = []
    for genes in found:
        shape = candidates.shape(genes)
        points.append(Point(genes, shape, candidates.nbytes(shape), candidates.auc(genes)))
    return sorted(points, key=lambda point: point.nbytes)


def front(points: list[Point]) -> list[Point]:
    """Return the points that none beats in both AUC and bytes, from small to large."""
    return hull(points, lambda point: point.nbytes, lambda point: point.auc)


def pick(points: list[Point], judge: Candidates, limit: int | None = None) -> Point:
    """Return the best point that fits; without a limit the smallest within one standard error of the best.

    That is Breiman's rule: what rows cannot tell apart is not worth bytes, and the more rows there are the
    more they tell apart. Where bytes are given, saving more of them is not what was asked for.

    Args:
        points: finalists, from small to large.
        judge: the candidates on the rows that they were scored on.
        limit: bytes of the budget, where there is one.

    Raises:
        SlimtabError: when no point fits.
    """
    fitting = [point for point in points if limit is None or point.nbytes <= limit]
    if not fitting:
        assert limit is not None
        least = min((point.nbytes for point in points), default=0)
        raise SlimtabError(
            f"no candidate fits {format_bytes(limit)} ({limit} bytes); the smallest found "
            f"has {least} bytes: raise the budget, or search for more --generations"
        )
    best = max(fitting, key=lambda point: point.auc)
    if limit is not None:
        return best
    errors = judge.errors(best.genes, (point.genes for point in fitting))
    return next(p for p, error in zip(fitting, errors, strict=True) if best.auc - p.auc <= error)
