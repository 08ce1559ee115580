"""Modules that hold modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dtrain.nn.module import Module

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


class _Numbered(Module):
    """Children under the names "0", "1", ..., as in PyTorch's state dicts."""

    def _items(self) -> list[tuple[str, Module]]:
        return [(name, value) for name, value in self.__dict__.items() if isinstance(value, Module)]

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Any]:
        return iter([module for _, module in self._items()])

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(self._items()[index][0], module)

    def __delitem__(self, index: Any) -> None:
        modules = list(self)
        del modules[index]
        self._renumber(modules)

    def _renumber(self, modules: Iterable[Module]) -> None:
        for name, _ in self._items():
            delattr(self, name)
        self.extend(modules)

    def append(self, module: Module) -> Any:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before place `index`; those behind it get new names."""
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)
        return self

    def pop(self, index: int = -1) -> Module:
        """Take a module out and return it; those behind it get new names."""
        module = self[index]
        del self[index]
        return module


class Sequential(_Numbered):
    """Modules applied one after the other: Sequential(a, b) or Sequential({"first": a, "second": b})."""

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
        else:
            self.extend(modules)

    def __getitem__(self, index: Any) -> Any:
        """One module, or for a slice a Sequential of those modules under their names."""
        if isinstance(index, slice):
            return type(self)(dict(self._items()[index]))
        return super().__getitem__(index)

    def forward(self, input: Any) -> Any:  # noqa: A002
        for _, module in self._items():
            input = module(input)  # noqa: A001
        return input


class ModuleList(_Numbered):
    """A list of modules whose parameters are found."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def __getitem__(self, index: Any) -> Any:
        """One module, or for a slice a ModuleList of those modules."""
        found = super().__getitem__(index)
        return type(self)(found) if isinstance(index, slice) else found


class ModuleDict(Module):
    """A dictionary of modules whose parameters are found."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module]) -> None:
        """Add modules under their names."""
        for name, module in modules.items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        if hasattr(type(self), name):
            raise KeyError(f"a module cannot be called {name!r}: it is a method of {type(self).__name__}")
        self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        return dict(self.items())[name]

    def __delitem__(self, name: str) -> None:
        delattr(self, name)

    def pop(self, name: str) -> Module:
        """Take a module out and return it."""
        module = self[name]
        del self[name]
        return module

    def __contains__(self, name: str) -> bool:
        return name in dict(self.items())

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.items()))

    def __len__(self) -> int:
        return len(dict(self.items()))

    def keys(self) -> Iterable[str]:
        """The names."""
        return dict(self.items()).keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return dict(self.items()).values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """(name, module) pairs."""
        return [(name, value) for name, value in self.__dict__.items() if isinstance(value, Module)]
