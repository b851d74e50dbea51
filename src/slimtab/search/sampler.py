"""Evolution over whole numbers, one gene per feature, as an Optuna sampler.

Selection is NSGA-II's (Deb, Pratap, Agarwal & Meyarivan, IEEE TEC 2002), which Optuna has: the elite of all
generations so far are the parents. Children are made as in OptEmbed (Lyu et al., CIKM 2022): half by
mutation, half by one-point crossover between features; always of copies, and never one scored before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

Genes = dict[str, int]

_TRIES = 100  # to find a child that was not scored before


class EvolutionSampler(NSGAIISampler):  # type: ignore[misc]
    """Samples children of the best so far.

    It works in ``study.optimize``, and through :meth:`propose` and :meth:`add` where a trial must cost one
    write to the storage instead of one per gene. What it draws hangs on the seed and the trial's number
    alone, so a study that is stopped and continued goes the way of one that is not.

    Args:
        space: the genes, in the order of the features they stand for.
        seed: of all draws.
        population: trials per generation.
        mutation: probability with which a gene of a mutant is drawn anew.
        worker: number of the process, for several that share a study.
    """

    def __init__(
        self,
        space: Mapping[str, IntDistribution],
        seed: int = 0,
        population: int = 20,
        mutation: float = 0.1,
        worker: int = 0,
    ) -> None:
        super().__init__(population_size=population, seed=seed)
        self.space, self.seed, self.mutation, self.worker = dict(space), seed, mutation, worker
        self._key = itemgetter(*self.space)  # of genes: equal for equal ones

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all genes."""
        return dict(self.space)

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Return a generation's scored trials, those of other processes and of :meth:`add` too."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in done if trial.system_attrs.get(self._get_generation_key()) == generation]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the genes of a trial."""
        generation = self.get_trial_generation(study, trial)
        return self._child(study, self.get_parent_population(study, generation), trial.number)

    def elite(self, study: Study) -> list[FrozenTrial]:
        """Return the best of all generations, as many as one holds."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        last = max((trial.system_attrs.get(self._get_generation_key(), 0) for trial in done), default=0)
        return self.select_parent(study, last + 1)  # type: ignore[no-any-return]

    def propose(self, study: Study) -> tuple[Genes, int]:
        """Return genes to score next, and the generation they belong to."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sizes = Counter(trial.system_attrs.get(self._get_generation_key(), 0) for trial in done)
        generation = max(sizes, default=0)
        assert self.population_size is not None
        generation += sizes[generation] >= self.population_size
        return self._child(study, self.get_parent_population(study, generation), len(done)), generation

    def add(self, study: Study, genes: Genes, generation: int, values: Sequence[float]) -> None:
        """Put a scored trial into the study."""
        study.add_trial(
            create_trial(
                params=dict(genes),
                distributions=dict(self.space),
                values=list(values),
                system_attrs={self._get_generation_key(): generation},
            )
        )

    def _child(self, study: Study, parents: Sequence[FrozenTrial], number: int) -> Genes:
        rng = np.random.default_rng([self.seed, self.worker, number])
        known = {
            self._key(t.params) for t in study.get_trials(deepcopy=False) if len(t.params) == len(self.space)
        }
        pool = [dict(trial.params) for trial in sorted(parents, key=lambda trial: trial.number)]
        for tried in range(_TRIES):
            if not pool:
                genes = self._mutant(dict.fromkeys(self.space, 1), 1.0, rng)
            elif rng.random() < 0.5 or len(pool) == 1:
                # Where children repeat what is known, more and more of their genes are drawn.
                share = self.mutation + (1 - self.mutation) * tried / _TRIES
                genes = self._mutant(pool[rng.integers(len(pool))], share, rng)
            else:
                one, other = rng.choice(len(pool), 2, replace=False)
                genes = self._crossed(pool[one], pool[other], rng)
            if self._key(genes) not in known:
                break
        return genes

    def _mutant(self, parent: Mapping[str, int], share: float, rng: np.random.Generator) -> Genes:
        """Return a copy in which each gene is drawn anew with probability ``share``, one at least."""
        drawn = rng.random(len(self.space)) < share
        drawn[rng.integers(len(drawn))] = True
        return {
            name: int(rng.integers(gene.low, gene.high + 1)) if new else parent[name]
            for (name, gene), new in zip(self.space.items(), drawn, strict=True)
        }

    def _crossed(self, one: Mapping[str, int], other: Mapping[str, int], rng: np.random.Generator) -> Genes:
        """Return the first genes of one parent and the rest of the other, both at least one."""
        cut = int(rng.integers(1, len(self.space))) if len(self.space) > 1 else 1
        return {name: (one if place < cut else other)[name] for place, name in enumerate(self.space)}
