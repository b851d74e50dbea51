"""What the pages tell a reader to type is run on small rows, or at least read by what will read it."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from slimtab.cli import _parser, main
from slimtab.config import load_config
from slimtab.data.encode import Encoder
from slimtab.data.readers import read_raw
from slimtab.data.synthetic import write_criteo
from slimtab.grid.settings import read_grid
from slimtab.schema import Schema
from slimtab.serving.arrays import to_arrays
from slimtab.sweep.settings import read_sweep

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def blocks(page, language):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(page):
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", "").splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in split if words[:1] == ["slimtab"]]


def run(page):
    """Run the page's commands as they stand, but for one short epoch and raw rows that are there already."""
    for words in commands(page):
        if words[0] == "synth":
            continue
        if words[0] == "train":
            words = [*words, "training.epochs=1", "training.threads=1"]
        assert main(words) == 0, words


@pytest.mark.parametrize(
    "words", [words for page in PAGES for words in commands(page.stem)], ids=lambda words: " ".join(words)
)
def test_command_is_one_the_program_takes(words):
    """Its arguments, and the settings behind them."""
    args, more = _parser().parse_known_args(words)
    assert not more or hasattr(args, "settings")
    if words[0] in ("train", "search") and not args.config:
        load_config(None, {}, [*args.settings, *more])


class TestPagesRun:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("page", ["start", "criteo-kaggle"])
    def test_criteo(self, page):
        write_criteo(Path("train.txt"), 600, ids=100)
        run(page)
        assert Path("comparison/auc_bytes.png").exists()

    def test_terabyte(self):
        """Several days, more than nine of them, packed: the order is that of their numbers."""
        Path("terabyte").mkdir()
        for day in (0, 2, 10):
            write_criteo(Path(f"terabyte/day_{day}.gz"), 400, seed=day, ids=50)
        run("criteo-terabyte")
        assert Schema.load(Path("data/terabyte/schema.json")).sources == ("day_0.gz", "day_2.gz", "day_10.gz")

    def test_serving(self):
        """Other formats than the page's command names are made too, for its snippets open them."""
        pytest.importorskip("onnxruntime")
        write_criteo(Path("train.txt"), 600, ids=100)
        assert main(["prep", "criteo", "train.txt", "data/criteo"]) == 0
        options = ["model.options={mlp: [16]}", "training.epochs=1", "training.threads=1"]
        words = ["train", "data/criteo", "--run", "runs/u10", "--method", "unified", "--budget", "20%"]
        assert main([*words, *options]) == 0
        assert main(["export", "runs/u10", "--format", "pt2"]) == 0
        for words in commands("serving"):
            assert main(words) == 0, words
        encoder = Encoder.load(Path("runs/u10/frozen/encoder"))
        frame = next(iter(read_raw(Path("train.txt"), encoder.schema))).table
        arrays = to_arrays(encoder.encode(frame), encoder.schema)
        names = {"frame": frame, "row": frame.to_pylist()[0], "dense": arrays.dense, "ids": arrays.ids}
        found = {}
        for block in blocks("serving", "python"):
            exec(compile(block, "serving", "exec"), names)
            found[len(found)] = np.asarray(names.get("logits", 0))
        np.testing.assert_allclose(found[1], found[2], atol=1e-5)
        probabilities = names["predictor"].predict(frame)
        np.testing.assert_allclose(1 / (1 + np.exp(-found[1])), probabilities, atol=1e-6)

    def test_own_csv(self):
        """The rows shown, and more like them from other cities: three are too few to split."""
        (rows,), (columns,) = blocks("own-csv", "csv"), blocks("own-csv", "yaml")
        head, *shown = rows.splitlines()
        more = [row.replace("Oslo", f"Town {n // 2}") for n in range(60) for row in shown]
        Path("clicks.csv").write_text("\n".join([head, *shown, *more]), encoding="utf-8")
        Path("columns.yaml").write_text(columns, encoding="utf-8")
        run("own-csv")
        assert Path("comparison/page.html").exists()


@pytest.mark.parametrize("page", ["torchrec", "any-model", "criteo-terabyte", "shrink"])
def test_python_runs_and_prints_what_is_shown(page, capsys):
    names = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    printed = capsys.readouterr().out
    for shown in blocks(page, "text"):
        assert shown in printed


def test_grid_is_one_that_is_read(tmp_path):
    """It is the first thing a reader copies."""
    (block,) = blocks("comparing", "yaml")
    (tmp_path / "grid.yaml").write_text(block, encoding="utf-8")
    assert read_grid(tmp_path / "grid.yaml").methods[3].name == "qr-add"


def test_sweep_is_one_that_is_read(tmp_path):
    (block,) = blocks("sweep", "yaml")
    (tmp_path / "sweep.yaml").write_text(block, encoding="utf-8")
    assert read_sweep(tmp_path / "sweep.yaml").trials == 50
