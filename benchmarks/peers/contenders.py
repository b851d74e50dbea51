"""Who takes part in run.py, what each is tuned over, and the command lines that train and time it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
BATCH = 1024
HIDDEN = (256, 128)  # `slimtab train`'s own
WORKER = ("--batch", str(BATCH), "--hidden", *map(str, HIDDEN))


class Setting(NamedTuple):
    """What is tuned: the network's learning rate, and the decay in the library's own unit."""

    lr: float
    decay: float

    def __str__(self) -> str:
        return f"lr {self.lr:g}, decay {self.decay:g}"


# The defaults of `slimtab train` first.
OURS = tuple(Setting(*pair) for pair in ((5e-4, 2), (5e-4, 1), (5e-4, 4), (1e-3, 2), (1e-3, 1), (1e-3, 4)))
# The others come with 1e-3. They want more decay than anyone's default, so that is where their tries go.
L2 = tuple(Setting(1e-3, decay) for decay in (0, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2))


@dataclass(frozen=True)
class Contender:
    """A library's DeepFM, and the settings it is tuned over: as many for each, the library's own first."""

    name: str
    tries: tuple[Setting, ...]

    def fit(self, data: Path, rows: Path, folder: Path, setting: Setting, seed: int) -> list[str]:
        """The command that trains a run into `folder`, on one thread."""
        raise NotImplementedError

    def time(self, rows: Path, setting: Setting) -> dict[str, list[str]]:
        """Commands of workers to time, by name."""
        raise NotImplementedError


@dataclass(frozen=True)
class Slimtab(Contender):
    """A method of slimtab; its decay is per epoch."""

    method: str
    budget: tuple[str, ...] = ()  # nothing, or "--budget" and its value

    def fit(self, data: Path, rows: Path, folder: Path, setting: Setting, seed: int) -> list[str]:
        return [
            *(sys.executable, "-m", "slimtab", "train", str(data), "--run", str(folder / "run")),
            *("--model", "deepfm", "--method", self.method, *self.budget, "--seed", str(seed)),
            f"model.options={{mlp: {list(HIDDEN)}}}",
            f"training.batch_size={BATCH}",
            "training.threads=1",
            "optimizer.rows=adam",  # as all others have it
            f"optimizer.lr={setting.lr}",
            f"optimizer.rows_decay={setting.decay}",
        ]

    def time(self, rows: Path, setting: Setting) -> dict[str, list[str]]:
        command = [sys.executable, str(HERE.parent / "train_slimtab.py"), "--data", str(rows)]
        command += [*WORKER, "--method", self.method, *self.budget, "--rows", "adam"]
        both = {f"{self.name}, last stage": [*command, "--stage", "last"]} if self.method == "rq" else {}
        return {self.name: command, **both}


@dataclass(frozen=True)
class Peer(Contender):
    """Another library, in a virtual environment of its own (`environment`) or in slimtab's."""

    script: str
    environment: str | None = None

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return HERE / self.environment / "bin" / "python" if self.environment else Path(sys.executable)

    def _command(self, rows: Path, setting: Setting) -> list[str]:
        command = [str(self.python), str(HERE / self.script), "--data", str(rows)]
        return [*command, *WORKER, "--lr", str(setting.lr), "--decay", str(setting.decay)]

    def fit(self, data: Path, rows: Path, folder: Path, setting: Setting, seed: int) -> list[str]:
        return [*self._command(rows, setting), "--fit", str(folder), "--seed", str(seed), "--threads", "1"]

    def time(self, rows: Path, setting: Setting) -> dict[str, list[str]]:
        return {self.name: self._command(rows, setting)}


CONTENDERS: tuple[Contender, ...] = (
    Slimtab("slimtab full", OURS, "full"),
    Slimtab("slimtab unified 10 %", OURS, "unified", ("--budget", "10%")),
    Slimtab("slimtab rq 10 %", OURS, "rq", ("--budget", "10%")),
    # BaseModel decays nothing unless told to; FuxiCTR's Criteo recipes say 1e-5.
    Peer("FuxiCTR", L2, "train_fuxictr.py", ".venv-fuxictr"),
    # It sums the loss over the batch and takes λ|w|² where the others take λ|w|²/2 of the mean: the same
    # decays are 512 times as much in its unit. Its own 1e-5 is next to none.
    Peer(
        "DeepCTR-Torch",
        (Setting(1e-3, 1e-5), *(Setting(lr, decay * BATCH / 2) for lr, decay in L2[1:])),
        "train_deepctr.py",
        ".venv-deepctr",
    ),
    Peer("TorchRec", L2, "train_torchrec.py"),
)
