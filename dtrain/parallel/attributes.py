"""What forward passes leave in the attributes of modules, kept apart for each microbatch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dtrain.nn.module import Module

__all__ = ["Attributes"]

#: By module: name -> (value, its contents where it is a list, dict or set).
Saved = list[dict[str, tuple[Any, Any]]]


class Attributes:
    """Saves and restores the attributes of modules: which values they are, and what is in lists, dicts and sets.

    The layers of `dtrain.nn` are left out: they keep nothing there.
    """

    def __init__(self, modules: Iterator[Module]) -> None:
        library = Module.__module__.rpartition(".")[0]
        self.modules = [m for m in modules if not type(m).__module__.startswith(library + ".")]

    def save(self) -> Saved:
        """The attributes as they are now."""
        return [
            {name: (value, value.copy() if type(value) in (list, dict, set) else None) for name, value in had.items()}
            for had in map(vars, self.modules)
        ]

    def restore(self, saved: Saved) -> None:
        """The attributes as they were."""
        for has, had in zip(map(vars, self.modules), saved, strict=True):
            for name in has.keys() - had.keys():
                del has[name]
            for name, (value, contents) in had.items():
                if has.get(name, has) is not value:
                    has[name] = value
                if contents is not None:
                    value.clear()
                    value.extend(contents) if type(value) is list else value.update(contents)

    def changed(self, saved: Saved) -> list[Any]:
        """The values of attributes that are others than when they were saved."""
        return [
            value
            for has, had in zip(map(vars, self.modules), saved, strict=True)
            for name, value in has.items()
            if name not in had or had[name][0] is not value or had[name][1] is not None
        ]
