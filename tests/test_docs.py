"""The API reference that `make docs` builds from docstrings: it is complete, and every entry says something."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dtrain

ROOT = Path(__file__).parents[1]
(RECIPE,) = re.findall(r"^\t\$\(BIN\)/python (.* pdoc .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
# Methods of these are those of NumPy's arrays, as the class says.
LIKE_NUMPY = ("Recorded.",)
INTERNAL = {"dtrain.backend.cpu", "dtrain.backend.cuda", "dtrain.backend.reference", "dtrain.gpucheck"}  # no part of it


@cache
def pages() -> dict[str, ModuleType]:
    """The public modules by name: those of the recipe, and what public modules name in `__all__`."""
    found: dict[str, ModuleType] = {}
    waiting = [importlib.import_module(name) for name in re.findall(r"(?<= )(?:dtrain|launch)[\w.]*", RECIPE)]
    while waiting:
        module = waiting.pop()
        if module.__name__ in found or module.__name__.split(".")[0] not in ("dtrain", "launch"):
            continue
        found[module.__name__] = module
        waiting += [thing for name in module.__all__ if inspect.ismodule(thing := getattr(module, name))]
    return found


def entries(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """(name, object) of the module's public functions and classes, and of the latter's own methods and properties."""
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing):
            yield name, thing
            for attribute, value in vars(thing).items():
                if not attribute.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                    yield f"{name}.{attribute}", getattr(thing, attribute)
        elif inspect.isroutine(thing):
            yield name, thing


def test_every_package_is_in_the_reference() -> None:
    packages = {
        ".".join(file.relative_to(ROOT).parent.parts)
        for top in ("dtrain", "launch")
        for file in (ROOT / top).rglob("__init__.py")
    }
    assert packages - set(pages()) == INTERNAL


#: What they take and give is up to what is in them.
CONTAINERS = {
    "Container",
    "Module",
    "ModuleDict",
    "ModuleList",
    "ParameterDict",
    "ParameterList",
    "RNNBase",
    "Sequential",
}


def test_every_layer_says_its_shapes_and_what_it_raises() -> None:
    missing = []
    for name in dtrain.nn.__all__:
        thing = getattr(dtrain.nn, name)
        if inspect.isclass(thing) and issubclass(thing, dtrain.nn.Module):
            text = thing.__doc__ or ""
            if "Raises" not in text or name not in CONTAINERS and not ("->" in text or "shape" in text):
                missing.append(name)
    assert not missing


def test_everything_public_has_a_docstring_with_content() -> None:
    silent = []
    for page, module in sorted(pages().items()):
        for name, thing in entries(module):
            # A function's own, a class's own; a method may have that of the method it overrides.
            text = (thing.__doc__ if "." not in name else inspect.getdoc(thing)) or ""
            if not re.search(r"\w\W+\w|-x", text) and not name.startswith(LIKE_NUMPY):
                silent.append(f"{page}.{name}: {text!r}")
    assert not silent, "say what these are for, with formula, shapes, defaults and errors:\n" + "\n".join(silent)


def test_pages_have_every_public_name(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="pdoc is not installed: pip install dtrain[docs]")
    recipe = RECIPE.replace("build/docs", str(tmp_path)).split()
    done = subprocess.run([sys.executable, *recipe], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    missing = []
    for page, module in pages().items():
        text = unescape((tmp_path / f"{page.replace('.', '/')}.html").read_text())
        anchors = set(re.findall(r'id="([\w.]+)"', text))
        missing += [f"{page}.{name}" for name, _ in entries(module) if name.split(".")[0] not in anchors]
    assert not missing, missing
