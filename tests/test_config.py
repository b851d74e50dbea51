"""Settings: wrong keys and types are caught at once, and a run can be repeated from its file."""

import pytest
import yaml

from slimtab.config import RunConfig, build_config, load_config
from slimtab.errors import SlimtabError


def test_defaults_need_nothing():
    """Every setting has a value that somebody chose."""
    assert build_config({}) == RunConfig()


def test_file_then_overrides_then_assignments(tmp_path):
    """The order in which a user expects them to win."""
    (tmp_path / "c.yaml").write_text("table: {method: hash, dim: 8, budget: 5%}\nseed: 3\n")
    config = load_config(tmp_path / "c.yaml", {"table.dim": 32, "seed": 4}, ["seed=5", "optimizer.lr=0.5"])
    assert (config.table.method, config.table.dim, config.table.budget) == ("hash", 32, "5%")
    assert (config.seed, config.optimizer.lr) == (5, 0.5)
    assert config.table.init_std == RunConfig().table.init_std


def test_saved_config_repeats_itself(tmp_path):
    """Design §5: `slimtab train --config` on a run's config.yaml is the same run."""
    assignments = [
        "table.options.probes=2",
        "model.options.mlp=[8, 4]",
        "training.eval_steps=7",
        "table.budget=4000",
    ]
    config = load_config(None, {"data": "d", "run": "r", "optimizer.rows": "rowwise_adagrad"}, assignments)
    config.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml", {}) == config
    assert config.model.options == {"mlp": [8, 4]}
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("text", ["optimizer.lr=1e-3", "optimizer.lr=0.001", "optimizer.lr=.001"])
def test_numbers_as_people_write_them(text):
    """YAML 1.1 reads 1e-3 as text; a learning rate written so is a number all the same."""
    assert load_config(None, {}, [text]).optimizer.lr == 0.001


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": 1}, "no key 'sed'; did you mean 'seed'"),
        ({"optimizer": {"rows_l": 1}}, "no key 'optimizer.rows_l'; did you mean 'rows_lr'"),
        ({"training": {"bananas": 1}}, "no key 'training.bananas'; known: .*batch_size"),
        ({"table": 3}, "'table' is a group of keys"),
        ({"seed": "many"}, "seed"),
        ({"training": {"batch_size": "big"}}, "batch_size"),
        ({"optimizer": {"rows": "sgd"}}, "rows"),
        ({"optimizer": {"lr": None}}, "lr"),
    ],
)
def test_a_wrong_key_or_type_is_one_line(values, message):
    """Issue: an unknown key is an error that names the nearest ones."""
    with pytest.raises(SlimtabError, match=message) as caught:
        build_config(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "assignment",
    [
        "training.batch_size=0",
        "training.epochs=0",
        "training.log_steps=0",
        "training.checkpoint_steps=0",
        "training.eval_steps=-1",
        "table.dim=0",
        "optimizer.lr=-0.1",
        "optimizer.lr=.nan",
        "optimizer.rows_lr=0",
        "optimizer.rows_decay=-1",
        "training.threads=0",
        "seed=-1",
    ],
)
def test_values_out_of_range_name_their_key(assignment):
    """They would divide by zero, or train for ever, somewhere far from the cause."""
    with pytest.raises(SlimtabError, match=assignment.partition("=")[0]):
        load_config(None, {}, [assignment])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [("lr", "key=value"), ("seed.x=1", "seed.x"), ("seed=[1,", "seed"), ("seed=a: b: c", "seed")],
)
def test_assignments_that_cannot_be_read(assignment, message):
    """They come from a shell line, where a quote is quickly lost."""
    with pytest.raises(SlimtabError, match=message) as caught:
        load_config(None, {"seed": 1}, [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"a: [1,", b"\xff\xfe", b"- 1\n- 2\n", b"text"])
def test_files_that_cannot_be_read(tmp_path, text):
    """One line that names the file."""
    (tmp_path / "c.yaml").write_bytes(text)
    with pytest.raises(SlimtabError, match=r"c\.yaml") as caught:
        load_config(tmp_path / "c.yaml", {})
    assert "\n" not in str(caught.value)


def test_an_absent_file(tmp_path):
    """Not to be taken for an empty one."""
    with pytest.raises(SlimtabError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml", {})


def test_yaml_runs_no_code(tmp_path):
    """Configs are passed around; reading one must be safe."""
    marker = tmp_path / "marker"
    (tmp_path / "c.yaml").write_text(f"seed: !!python/object/apply:pathlib.Path.touch [{marker}]\n")
    with pytest.raises(SlimtabError):
        load_config(tmp_path / "c.yaml", {})
    assert not marker.exists()


def test_to_dict_is_plain_yaml():
    """config.yaml is read by other tools too."""
    assert yaml.safe_load(yaml.safe_dump(RunConfig().to_dict())) == RunConfig().to_dict()
