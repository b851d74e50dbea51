"""The training loop: deterministic, interruptible anywhere, and loud when something is wrong."""

import dataclasses
import warnings
from functools import cache
from itertools import chain, pairwise

import pytest
import torch

from slimtab.collection import TableCollection
from slimtab.config import load_config
from slimtab.data.loader import Loader
from slimtab.errors import SlimtabError
from slimtab.models.base import build_model
from slimtab.testing import fake_dataset, fake_schema
from slimtab.training.checkpoint import latest_checkpoint, read_tensors
from slimtab.training.observer import Observer
from slimtab.training.optimizers import fused_rows
from slimtab.training.trainer import Trainer

SCHEMA = fake_schema([10, 300, 40], numerics=3, multi_hot=[50])
STEPS = 12  # per epoch: 600 rows in batches of 50


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    fake_dataset(folder, SCHEMA, {"train": 600, "valid": 200, "test": 100}, block_rows=64)
    return folder


class Recorder(Observer):
    """Keeps what it is told; can stop a training as Ctrl-C would."""

    def __init__(self, stop_at=None):
        self.reports, self.validations, self.ended, self.stop_at = [], [], 0, stop_at

    def on_log(self, report):
        self.reports.append(report)
        if report.step == self.stop_at:
            raise KeyboardInterrupt

    def on_validation(self, step, metrics, best):
        self.validations.append((step, metrics, best))

    def on_end(self):
        self.ended += 1


def make(data, folder, *assignments, observer=None, train=None):
    """A trainer with small settings; ``assignments`` change them."""
    base = [
        "training.batch_size=50",
        "training.epochs=3",
        "training.log_steps=1",
        "table.method=unified",
        "table.budget=60%",
        "table.dim=8",
        "optimizer.rows_decay=0.5",
        "model.options={mlp: [16], dropout: 0.3}",
    ]
    config = load_config(None, {}, [*base, *assignments])
    train = train or Loader(data, "train", config.training.batch_size, shuffle=True, seed=config.seed)
    torch.manual_seed(config.seed)
    tables = TableCollection.build(
        SCHEMA.features,
        config.table.dim,
        config.table.method,
        config.table.budget,
        make_rows=fused_rows(config.optimizer, len(train)),
    )
    model = build_model(config.model.name, tables, len(SCHEMA.numerics), config.model.options)
    valid = Loader(data, "valid", 200, shuffle=False)
    return Trainer(model, train, valid, config, folder, [observer or Recorder()])


def fitted(trainer):
    """Metrics, weights and validation curve of a finished training."""
    metrics = trainer.fit()
    recorder = trainer.observers[0]
    state = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    return metrics, state, recorder.validations


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """Trainings without a stop, each done once."""
    return cache(lambda *settings: fitted(make(data, tmp_path_factory.mktemp("whole"), *settings)))


def assert_same(one, other):
    assert one[0] == other[0]
    for name, tensor in one[1].items():
        assert torch.equal(tensor, other[1][name]), name


def test_the_same_seed_is_the_same_run(data, tmp_path):
    """Bit for bit: shuffling, start values and dropout all hang on one seed."""
    one, two, other = (
        fitted(make(data, tmp_path / name, f"seed={seed}")) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert_same(one, two)
    assert one[2] == two[2]
    assert one[0] != other[0]


@pytest.mark.parametrize("assignment", ["training.log_steps=7", "training.checkpoint_steps=5"])
def test_watching_and_saving_change_nothing(data, tmp_path, assignment):
    """Someone who looks more often, or saves more often, gets the same model."""
    one, two = fitted(make(data, tmp_path / "a")), fitted(make(data, tmp_path / "b", assignment))
    assert_same(one, two)


@pytest.mark.parametrize(
    "settings",
    [
        ["training.checkpoint_steps=1"],
        ["training.checkpoint_steps=5", "training.eval_steps=4"],
        ["training.eval_steps=7", "training.patience=9"],
        ["training.checkpoint_steps=5", "optimizer.rows=rowwise_adagrad", "optimizer.rows_decay=30"],
        ["training.checkpoint_minutes=0"],
    ],
)
@pytest.mark.parametrize("stop_at", [1, 12, 13, 29])
def test_resumes_as_if_it_had_never_stopped(data, tmp_path, uninterrupted, settings, stop_at):
    """Stopped at a step, with dropout and pending decay, between checkpoints and on them."""
    whole = uninterrupted(*settings)
    with pytest.raises(KeyboardInterrupt):
        make(data, tmp_path / "parts", *settings, observer=Recorder(stop_at)).fit()
    again = make(data, tmp_path / "parts", *settings)
    rest = fitted(again)
    assert_same(whole, rest)
    assert whole[2][-len(rest[2]) :] == rest[2] or not rest[2]
    first = again.observers[0].reports[0].step if again.observers[0].reports else None
    assert first is None or first <= stop_at + 1


@pytest.mark.parametrize("method", ["rq", "nested", "dedup"])
def test_resumes_in_a_later_stage(data, tmp_path, uninterrupted, method):
    """Codes, widths and shared blocks come back from the checkpoint, not from fitting them anew."""
    settings = [f"table.method={method}", "training.checkpoint_steps=5", "training.patience=0"]
    whole = uninterrupted(*settings)
    began = next(step for (step, *_), (after, *_) in pairwise(whole[2]) if step == after)
    stopped = make(data, tmp_path, *settings, observer=Recorder(stop_at=began + 8))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    assert stopped.table.stage == stopped.table.stages[1]
    resumed = make(data, tmp_path, *settings)
    assert_same(whole, fitted(resumed))
    assert resumed.began == began


def test_a_stage_begins_with_the_best_of_the_one_before(data, tmp_path):
    """And what it begins with is scored: twice at the step where it changes, first without and then with."""
    recorder = Recorder()
    trainer = make(data, tmp_path, "table.method=rq", "training.patience=0", observer=recorder)
    trainer.fit()
    assert {path.name for path in tmp_path.glob("best-*")} == {
        "best-train.safetensors",
        "best-code.safetensors",
    }
    steps = [step for step, *_ in recorder.validations]
    assert len(steps) - len(set(steps)) == 1
    assert trainer.train_bytes > 0


def test_a_resumed_run_may_be_stopped_again(data, tmp_path):
    """A preemptible machine stops many times."""
    whole = fitted(make(data, tmp_path / "whole", "training.checkpoint_steps=2"))
    for stop_at in (3, 4, 11, 12, 20, 33):
        with pytest.raises(KeyboardInterrupt):
            make(data, tmp_path / "parts", "training.checkpoint_steps=2", observer=Recorder(stop_at)).fit()
    assert_same(whole, fitted(make(data, tmp_path / "parts", "training.checkpoint_steps=2")))


def test_a_finished_training_stays_finished(data, tmp_path):
    """Running it again trains no further step and returns the same."""
    one = fitted(make(data, tmp_path))
    again = make(data, tmp_path)
    assert_same(one, fitted(again))
    assert again.observers[0].reports == []


def test_a_damaged_checkpoint_says_what_to_do(data, tmp_path):
    """One line; deleting it, as told, goes on from the one before and ends the same."""
    whole = fitted(make(data, tmp_path / "whole", "training.checkpoint_steps=5"))
    with pytest.raises(KeyboardInterrupt):
        make(data, tmp_path / "parts", "training.checkpoint_steps=5", observer=Recorder(28)).fit()
    newest = latest_checkpoint(tmp_path / "parts")
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(SlimtabError, match=r"damaged .*delete it"):
        make(data, tmp_path / "parts", "training.checkpoint_steps=5").fit()
    newest.unlink()
    assert_same(whole, fitted(make(data, tmp_path / "parts", "training.checkpoint_steps=5")))


def test_best_weights_are_returned_and_rates_fall_from_there(data, tmp_path):
    """Labels here are noise, so every validation soon gets worse: the first best must come back."""
    trainer = make(data, tmp_path, "optimizer.lr=0.05", "optimizer.rows_lr=0.05", "training.epochs=20")
    before = []
    trainer.table.on_step = lambda clock: before.append(trainer.model.output.weight.detach().clone())
    metrics, state, validations = fitted(trainer)
    best = [number for number, (_, _, is_best) in enumerate(validations) if is_best]
    assert metrics == validations[best[-1]][1]
    assert metrics.logloss == min(metrics.logloss for _, metrics, _ in validations)
    assert trainer.step < 20 * STEPS  # patience ran out
    patience = trainer.settings.patience
    worse = next(  # the first time that it was used up
        range(number, number + patience + 1)
        for number in range(len(validations))
        if not any(later in best for later in range(number, number + patience + 1))
    )
    stale = worse[-1]  # from here on rates fell
    from_here = validations[worse[0] - 1][0]
    assert torch.equal(before[validations[stale][0]], before[from_here])
    stored, _ = read_tensors(tmp_path / "best-train.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize(("eval_steps", "expected"), [("null", [12, 24, 36]), ("10", [10, 20, 30, 36])])
def test_validates_when_told_and_at_the_end(data, tmp_path, eval_steps, expected):
    """A last stretch that is never validated could not be chosen."""
    settings = [f"training.eval_steps={eval_steps}", "training.patience=99"]
    assert [step for step, _, _ in fitted(make(data, tmp_path, *settings))[2]] == expected


def test_reports(data, tmp_path):
    """What progress bar and TensorBoard are told."""
    recorder = Recorder()
    make(data, tmp_path, "training.log_steps=5", observer=recorder).fit()
    assert [report.step for report in recorder.reports] == [1, 6, 11, 16, 21, 26, 31, 36]
    last = recorder.reports[-1]
    assert (last.total, last.epoch) == (36, 3.0)
    assert last.rows_per_second > 0
    assert {"norm/dense_gradient", "norm/rows_gradient", "oov/C1"} <= set(last.figures)
    assert recorder.ended == 1


def test_a_loss_that_is_not_finite_names_the_step(data, tmp_path):
    """Issue 2; and the observers are closed all the same."""
    recorder = Recorder()
    settings = ["optimizer.lr=1e30", "optimizer.rows_lr=1e30", "optimizer.rows_decay=0"]
    with pytest.raises(SlimtabError, match=r"the loss is (nan|inf) at step \d+; lower optimizer\.lr"):
        make(data, tmp_path, *settings, observer=recorder).fit()
    assert recorder.ended == 1
    assert latest_checkpoint(tmp_path) is None  # nothing broken is kept


def test_weights_that_break_just_before_a_validation(data, tmp_path):
    """The last step of an epoch is seen by the validation only."""
    settings = ["optimizer.lr=1e30", "optimizer.rows_lr=1e30", "training.eval_steps=1"]
    trainer = make(data, tmp_path, *settings)
    trainer.model.output.register_forward_hook(
        lambda module, _, out: out if module.training else out * torch.nan
    )
    with pytest.raises(SlimtabError, match=r"the loss is nan at step 1;"):
        trainer.fit()


def test_a_table_without_gradient_is_warned_of_once(data, tmp_path):
    """Right after the first step, while stopping is still cheap."""
    trainer = make(data, tmp_path)
    trainer.model.interact = lambda dense, vectors: trainer.model.linear(dense).squeeze(1)
    with pytest.warns(UserWarning, match="gets no gradient") as caught:
        trainer.fit()
    assert len([w for w in caught if "'tables.table.rows'" in str(w.message)]) == 1


def test_no_warning_on_a_sound_model(data, tmp_path):
    """All three models over all three methods would otherwise teach users to look away."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(data, tmp_path, "training.epochs=1").fit()


def test_methods_are_told_of_steps_and_may_add_to_the_loss(data, tmp_path):
    """Schedules and regularisers: on_step before each step, penalty inside the gradient."""
    trainer = make(data, tmp_path, "training.epochs=1")
    table, seen = trainer.model.tables.table, []
    table.extra = torch.nn.Parameter(torch.tensor(3.0))
    trainer.optimizers.dense.add_param_group({"params": [table.extra], "rows": False})
    table.on_step = lambda clock: seen.append((clock.step, clock.total))
    table.penalty = lambda: table.extra.square()
    trainer.fit()
    assert seen == [(step, STEPS) for step in range(STEPS)]
    assert float(table.extra.detach()) < 3.0


def test_the_reported_loss_is_without_the_penalty(data, tmp_path):
    """Losses of two methods stay comparable."""
    one = make(data, tmp_path / "a")
    one.fit()
    two = make(data, tmp_path / "b")
    two.model.tables.table.penalty = lambda: torch.tensor(100.0)
    two.fit()
    assert [r.loss for r in one.observers[0].reports] == [r.loss for r in two.observers[0].reports]


def test_rows_are_all_used_once_per_epoch(data, tmp_path):
    """`epochs` means passes, not samples."""
    train = Loader(data, "train", 50, shuffle=True, seed=0)
    trainer = make(data, tmp_path, train=train)
    seen = []
    forward = trainer.model.interact
    trainer.model.interact = lambda dense, vectors: (
        trainer.model.training and seen.append(dense[:, 0].tolist()) and None,
        forward(dense, vectors),
    )[1]
    trainer.fit()
    epochs = [sorted(chain(*seen[start : start + STEPS])) for start in range(0, 3 * STEPS, STEPS)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(epochs[0]) == 600


def test_an_empty_validation_split_is_one_line(tmp_path):
    """A dataset prepared with no validation rows cannot choose its best weights."""
    fake_dataset(tmp_path, SCHEMA, {"train": 600, "valid": 0, "test": 0})
    with pytest.raises(SlimtabError, match="no split 'valid'"):
        make(tmp_path, tmp_path / "run").fit()


def test_settings_are_left_as_they_were(data, tmp_path):
    """Configs are shared between runs of a sweep."""
    trainer = make(data, tmp_path)
    before = dataclasses.asdict(trainer.settings)
    trainer.fit()
    assert dataclasses.asdict(trainer.settings) == before


@pytest.mark.parametrize(("cooldown", "steps"), [(1, 12), (2, 24), (7, 60)])
def test_rates_fall_at_the_end_though_every_validation_was_better(data, tmp_path, cooldown, steps):
    """In a straight line, over so many validations, or half of training."""
    trainer = make(
        data, tmp_path, "training.epochs=10", "training.patience=9", f"training.cooldown={cooldown}"
    )
    rates = []
    use = trainer.optimizers.use
    trainer.optimizers.use = lambda scale: (rates.append(scale), use(scale))
    trainer.fit()
    assert rates == pytest.approx([1.0] * (120 - steps) + [1 - n / steps for n in range(steps)])
    assert trainer.table.rows.lr == pytest.approx(1e-3 / steps)
