"""The project's own rules: layers, what is public, what is imported when, and no loose ends."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("dtrain/**/*.py"), *ROOT.glob("launch/**/*.py")])

# Low to high; "dtrain" is dtrain/__init__.py. An import may only point to a lower layer or its own.
LAYERS = (
    "dtrain.backend",
    "dtrain.autograd",
    "dtrain.utils",
    "dtrain.ops",
    "dtrain.amp",
    "dtrain.nn",
    "dtrain.optim",
    "dtrain.data",
    "dtrain.comm",
    "dtrain.metrics",
    "dtrain.parallel",
    "dtrain.checkpoint",
    "dtrain.hub",
    "dtrain.models",
    "dtrain",
    "launch",
    "dtrain.gpucheck",
)

# Modules that only lead from PyTorch's names to where things are; whoever imports one of them is above these.
PATHS_OF_PYTORCH = ("dtrain.utils.data", "dtrain.nn.parallel")

LINES = 400
LONG_FILES = {  # and why they are longer
    "dtrain/parallel/distributed.py": "a step, from the first call of the model to the sums",
}


def module_of(file: Path) -> str:
    """The name under which a file of the library is imported."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in SOURCES}


def layer_of(module: str) -> str:
    """The layer to which a module belongs."""
    if module in PATHS_OF_PYTORCH:
        return "dtrain"
    return next((layer for layer in LAYERS if layer.count(".") and in_package(module, layer)), module.split(".")[0])


def in_package(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def imports_of(module: str) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of every import of the library's own modules, at whatever depth; name "" for all of it."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            submodules = {alias.name for alias in node.names if f"{origin}.{alias.name}" in MODULES}
            found = [(f"{origin}.{name}", "") for name in submodules]
            found += [(origin, alias.name) for alias in node.names if alias.name not in submodules]
        else:
            continue
        for origin, name in found:
            if in_package(origin, "dtrain") or in_package(origin, "launch"):
                yield node.lineno, origin, name


def test_every_folder_has_its_layer() -> None:
    folders = {module for module, file in MODULES.items() if file.name == "__init__.py" and module.count(".") < 2}
    assert folders == set(LAYERS), "put new folders into LAYERS"


def test_no_import_points_upward() -> None:
    upward = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {origin}"
        for module in MODULES
        for line, origin, _ in imports_of(module)
        if LAYERS.index(layer_of(origin)) > LAYERS.index(layer_of(module))
    ]
    assert not upward, "\n".join(upward)


def test_modules_take_only_public_names_of_other_layers() -> None:
    private = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name} of {origin}"
        for module in MODULES
        for line, origin, name in imports_of(module)
        if name.startswith("_") and layer_of(origin) != layer_of(module)
    ]
    assert not private, "\n".join(private)


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_exists_and_is_explained(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    if name == "dtrain":  # PyTorch's namespace, made of re-exports
        return
    assert hasattr(module, "__all__"), f"{name} does not say what is public"
    public = module.__all__
    assert len(set(public)) == len(public), f"{name}.__all__ names something twice"
    for export in public:
        assert not export.startswith("_"), f"{name}.__all__ has the private {export}"
        assert hasattr(module, export), f"{name}.__all__ has {export}, which does not exist"
        thing = getattr(module, export)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            assert thing.__doc__, f"{name}.{export} has no docstring"


def alone(code: str) -> str:
    """What a new process prints that no launcher has started."""
    launchers = ("PMI", "OMPI_", "PRTE_", "SLURM_", "MPI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


TRAIN = """
import sys
{before}
import numpy as np
import dtrain, launch
from dtrain import data, nn, optim
from dtrain.nn import functional as F

job = launch.Job(seed=1)
model = dtrain.DistributedDataParallel(nn.Linear(3, 2), job.comm, microbatches=2)
optimizer = optim.SGD(model.parameters(), lr=0.1)
dataset = data.ArrayDataset(np.ones((8, 3), np.float32), np.arange(8) % 2)
steps = 0
for x, y in data.DataLoader(dataset, batch_size=4, comm=job.comm, microbatches=2):
    F.cross_entropy(model(x), y).backward()
    if model.synchronized:
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
print(steps, *(name for name in ("mpi4py", "cupy", "torch") if sys.modules.get(name)))
"""


def test_one_process_imports_neither_mpi4py_nor_cupy() -> None:
    assert alone(TRAIN.format(before="")) == "2"


def test_one_process_works_where_mpi4py_and_cupy_are_not_installed() -> None:
    # None in sys.modules makes `import` raise ModuleNotFoundError.
    assert alone(TRAIN.format(before="sys.modules.update(mpi4py=None, cupy=None, torch=None)")) == "2"


def test_files_are_short() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in SOURCES}
    long = {name: lines for name, lines in lengths.items() if lines > LINES and name not in LONG_FILES}
    assert not long, f"split these files of more than {LINES} lines, or say in LONG_FILES why not: {long}"
    needless = [name for name in LONG_FILES if lengths.get(name, 0) <= LINES]
    assert not needless, f"not long any more: {needless}"


def texts() -> Iterator[tuple[str, int, str]]:
    """(file, line number, line) of all text in the project, this file left out."""
    folders = ("dtrain", "launch", "tests", "examples", "slurm", "benchmarks", "docs", ".ci")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    files += [ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("*.md")]
    for file in files:
        if file.suffix in (".npz", ".pyc", ".safetensors") or file == Path(__file__):
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            yield str(file.relative_to(ROOT)), number, line


def test_no_loose_ends() -> None:
    unfinished = re.compile(r"\b(TODO|FIXME|XXX)\b")
    somebodys = re.compile(r"(?<![\w.$}])/(home|root|work|Users)/")
    found = [
        f"{file}:{number}: {line.strip()}"
        for file, number, line in texts()
        if unfinished.search(line) or somebodys.search(line)
    ]
    assert not found, "\n".join(found)


PROSE = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("slurm/*.sbatch"))]


@pytest.mark.parametrize("file", PROSE, ids=lambda file: file.name)
def test_prose_names_files_and_commands_that_exist(file: Path) -> None:
    text = file.read_text()
    paths = re.findall(r"(?<![\w/.:-])(?:dtrain|launch|tests|examples|slurm|benchmarks|docs)/[\w./-]*", text)
    missing = sorted({path for path in paths if not (ROOT / path.rstrip("./")).exists()})
    assert not missing, f"{file.name} names {missing}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"(?:`|^ {4,}|^\$ )make ([a-z-]+)", text, re.MULTILINE))
    assert commands <= targets, f"{file.name} names make {sorted(commands - targets)}"
    modules = set(re.findall(r"python -m ((?:dtrain|launch)[\w.]*\w)", text))
    unknown = sorted(name for name in modules if name not in MODULES and f"{name}.__main__" not in MODULES)
    assert not unknown, f"{file.name} names {unknown}"
