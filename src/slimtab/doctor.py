"""Look at what slimtab depends on: is it installed, does it load, do the versions fit together?"""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from dataclasses import dataclass

# torch, torchrec and fbgemm are compiled against each other: neighbouring versions do not load.
TESTED = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}
INSTALL = {
    "torch": "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu",
    "torchrec": "pip install --no-deps -r requirements/torchrec-cpu.txt",
}
# Distribution and the module it is imported as.
NEEDED = {
    "torch": "torch",
    "fbgemm-gpu-cpu": "fbgemm_gpu",
    "torchrec": "torchrec",
    "numpy": "numpy",
    "pyarrow": "pyarrow",
    "polars": "polars",
    "pandas": "pandas",
    "optuna": "optuna",
    "scikit-learn": "sklearn",
    "tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
    "jsonargparse": "jsonargparse",
    "tqdm": "tqdm",
    "safetensors": "safetensors",
    "pyyaml": "yaml",
    "numba": "numba",
}
_TIMEOUT = 300


@dataclass(frozen=True)
class Package:
    """One dependency.

    Attributes:
        name: the distribution.
        version: what is installed, or None.
        fault: why it does not load, in one line, or None.
    """

    name: str
    version: str | None
    fault: str | None


@dataclass(frozen=True)
class Report:
    """What :func:`examine` found.

    Attributes:
        packages: every dependency, in the order they are imported.
        problems: what is broken, each with the line that mends it.
        notes: what differs from the tested versions but loads.
    """

    packages: tuple[Package, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def examine() -> Report:
    """Import every dependency and judge the result. Takes some seconds."""
    return judge(tuple(_look(name, module) for name, module in _expected().items()), _cuda_torch())


def judge(packages: tuple[Package, ...], cuda: bool) -> Report:
    """Turn what is installed into problems and notes.

    Args:
        packages: the dependencies; a ``fbgemm-gpu`` among them is the CUDA build.
        cuda: whether torch is a CUDA build.
    """
    problems, notes = [], []
    found = {package.name: package for package in packages}
    if "fbgemm-gpu" in found and not cuda:
        problems.append(
            f"fbgemm-gpu {found['fbgemm-gpu'].version} is the CUDA build and overwrites the CPU build's; "
            f"run: pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && {INSTALL['torchrec']}"
        )
    broken = {package.name for package in packages if package.version is None or package.fault}
    for package in packages:
        tested = TESTED.get(package.name)
        remedy = _remedy(package.name, found.get("torch"), cuda)
        if package.version is None:
            problems.append(f"{package.name} is not installed; run: {remedy}")
        elif package.fault:
            problems.append(
                f"{package.name} {package.version} does not load ({package.fault}); run: {remedy}"
            )
        elif tested and package.version.split("+")[0] != tested:
            told = f"{package.name} {package.version} is not the tested {tested}"
            if broken & TESTED.keys():
                problems.append(f"{told}, and not all of {', '.join(TESTED)} load; run: {remedy}")
            else:
                notes.append(f"{told}; should anything fail, run: {remedy}")
    return Report(packages, tuple(problems), tuple(notes))


def _expected() -> dict[str, str]:
    """Return what to look at: the CUDA build of fbgemm too, where it is installed."""
    if _version("fbgemm-gpu") is None:
        return NEEDED
    if _cuda_torch():
        return {
            ("fbgemm-gpu" if name == "fbgemm-gpu-cpu" else name): module for name, module in NEEDED.items()
        }
    return {**NEEDED, "fbgemm-gpu": "fbgemm_gpu"}


def _look(name: str, module: str) -> Package:
    version = _version(name)
    return Package(name, version, None if version is None else _fault(module))


def _fault(module: str) -> str | None:
    """Import ``module`` and return the fault in one line, or None.

    The triple is imported in a process of its own: a wrong fbgemm may end the process, not only raise.
    """
    if module not in ("torch", "fbgemm_gpu", "torchrec"):
        try:
            importlib.import_module(module)
        except Exception as error:
            return _line(f"{type(error).__name__}: {error}")
        return None
    # What slimtab calls must be there as well: fbgemm warns and goes on when its library does not load.
    operators = "; torch.ops.fbgemm.asynchronous_complete_cumsum" if module != "torch" else ""
    code = f"import torch, {module}{operators}"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"importing it took over {_TIMEOUT} s"
    if done.returncode == 0:
        return None
    return _line(done.stderr) or f"importing it ended the process with status {done.returncode}"


def _line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _remedy(name: str, torch: Package | None, cuda: bool) -> str:
    if cuda and name in ("torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu"):
        return "pip install 'slimtab[gpu]'"
    if name in ("torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu"):
        right = (
            torch is not None and torch.version is not None and torch.version.split("+")[0] == TESTED["torch"]
        )
        return INSTALL["torchrec"] if right else f"{INSTALL['torch']} && {INSTALL['torchrec']}"
    return INSTALL.get(name, f"pip install --upgrade {name}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_torch() -> bool:
    """Whether torch is a CUDA build: ``2.13.0+cpu`` says that it is not, else torch knows."""
    version = _version("torch")
    if version is None or "+cpu" in version:
        return False
    try:
        import torch
    except Exception:
        return False
    return torch.version.cuda is not None
