"""Evolution: the bugs of the public code, each as a test (methods.md §5.6)."""

import optuna
import pytest
from optuna.distributions import IntDistribution

from slimtab.search.sampler import EvolutionSampler

SPACE = {f"width_{n}": IntDistribution(1, 16) for n in range(5)}
optuna.logging.set_verbosity(optuna.logging.ERROR)


def value(genes):
    """Known and without equals: weights differ by feature."""
    return sum((n + 1) * genes[f"width_{n}"] for n in range(5)) / 240


def searched(trials, study=None, population=8, **settings):
    sampler = EvolutionSampler(SPACE, population=population, **settings)
    study = study or optuna.create_study(direction="maximize")
    while len(study.trials) < trials:
        genes, generation = sampler.propose(study)
        sampler.add(study, genes, generation, [value(genes)])
    return study


def test_the_best_candidate_stays_what_was_scored():
    """Parents are copied: in the public code, mutation edits the recorded best candidate itself."""
    study = searched(80)
    for trial in study.trials:
        assert trial.value == pytest.approx(value(trial.params))
    assert study.best_value == max(value(trial.params) for trial in study.trials)


def test_it_finds_more_than_chance():
    best = [searched(160, seed=seed).best_value for seed in range(3)]
    chance = [searched(160, seed=seed, population=1000).best_value for seed in range(3)]
    assert min(best) > max(chance)


def test_every_width_is_drawn():
    """1 … 16 with both ends; the public code never mutates to width 1."""
    seen = {w for trial in searched(300, population=300).trials for w in trial.params.values()}
    assert seen == set(range(1, 17))


def test_crossover_cuts_between_features():
    """A child takes its first genes from one parent and the rest, one at least, from the other."""
    sampler = EvolutionSampler(SPACE)
    import numpy as np

    cuts = set()
    one, other = dict.fromkeys(SPACE, 1), dict.fromkeys(SPACE, 2)
    for seed in range(100):
        child = list(sampler._crossed(one, other, np.random.default_rng(seed)).values())
        cuts.add(child.count(1))
        assert child == sorted(child)
    assert cuts == {1, 2, 3, 4}


def test_nothing_is_scored_twice():
    study = searched(120)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 120


def test_the_elite_is_kept():
    """Parents of a generation are the best of all before it."""
    study = searched(40)
    sampler = EvolutionSampler(SPACE, population=8)
    parents = sampler.get_parent_population(study, 4)
    before = sorted((t.value for t in study.trials[:32]), reverse=True)[:8]
    assert sorted((t.value for t in parents), reverse=True) == before


def test_stopped_and_continued_is_the_same_search(tmp_path):
    """What is drawn hangs on the seed and the trial's number."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    def opened():
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "j")))
        return optuna.create_study(storage=storage, study_name="a", direction="maximize", load_if_exists=True)

    for upto in (7, 23, 40):
        searched(upto, opened())
    whole = searched(40)
    assert [t.params for t in opened().trials] == [t.params for t in whole.trials]


def test_it_is_an_optuna_sampler():
    """``study.optimize`` works with it as with any."""
    study = optuna.create_study(direction="maximize", sampler=EvolutionSampler(SPACE, population=5))
    study.optimize(lambda trial: value({n: trial.suggest_int(n, 1, 16) for n in SPACE}), n_trials=25)
    assert {t.system_attrs["EvolutionSampler:generation"] for t in study.trials} == {0, 1, 2, 3, 4}
