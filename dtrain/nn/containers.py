"""Modules that hold modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dtrain.nn.module import Module

__all__ = ["ModuleDict", "ModuleList", "Sequential", "pairs"]


def pairs(name: str, given: Any) -> list[tuple[str, Any]]:
    """(key, value) pairs of a mapping or of what has `items()`; of an iterable the pairs that it holds.

    Raises TypeError for what cannot be iterated and keys that are no strings, ValueError for what is not a pair.
    """
    if not isinstance(given, Iterable):
        raise TypeError(f"{name} takes a mapping or pairs of a key and a value, got {type(given).__name__}")
    if hasattr(given, "items"):
        return list(given.items())
    found = []
    for i, pair in enumerate(given):
        if not isinstance(pair, Iterable):
            raise TypeError(f"{name}: element {i} is no pair but {type(pair).__name__}")
        values = list(pair)
        if len(values) != 2:
            raise ValueError(f"{name}: element {i} has {len(values)} elements, a key and a value are expected")
        found.append((values[0], values[1]))
    return found


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
        """Put a module before place `index`; those behind it get new names. Raises IndexError out of range."""
        modules = list(self)
        if not -len(modules) <= index <= len(modules):
            raise IndexError(f"insert: index {index} is out of range for {len(modules)} modules")
        modules.insert(index, module)
        self._renumber(modules)
        return self

    def pop(self, key: Any) -> Any:
        """Take a module (or a slice of them) out and return it; those behind it get new names."""
        found = self[key]
        del self[key]
        return found

    def __iadd__(self, other: Iterable[Module]) -> Any:
        return self.extend(other)

    def __add__(self, other: Iterable[Module]) -> Any:
        return type(self)().extend(self).extend(other)


class Sequential(_Numbered):
    """Modules applied one after the other: Sequential(a, b) or Sequential({"first": a, "second": b}).

    Raises TypeError for what is no Module, IndexError for an index beyond its ends.
    """

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

    def __add__(self, other: Any) -> Sequential:
        """The modules of both. Raises ValueError where other is no Sequential."""
        return Sequential(*self, *_sequential(other))

    def __iadd__(self, other: Any) -> Any:
        return self.extend(list(_sequential(other)))

    def __mul__(self, other: int) -> Sequential:
        """These modules `other` times, one after the other; they are shared. Raises TypeError, ValueError below 1."""
        return Sequential(*list(self) * _times(other))

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Any:
        return self.extend(list(self) * (_times(other) - 1))

    def forward(self, input: Any) -> Any:  # noqa: A002
        for _, module in self._items():
            input = module(input)  # noqa: A001
        return input


def _sequential(other: Any) -> Sequential:
    if not isinstance(other, Sequential):
        raise ValueError(f"a Sequential can be joined with another one only, got {type(other).__name__}")
    return other


def _times(number: Any) -> int:
    if not isinstance(number, int):
        raise TypeError(f"a Sequential can be repeated a whole number of times, got {type(number).__name__}")
    if number < 1:
        raise ValueError(f"a Sequential can be repeated once or more, got {number}")
    return number


class ModuleList(_Numbered):
    """A list of modules whose parameters are found. [a, b] + [c], append, extend, insert and pop as of a list.

    Raises TypeError for what is no Module, IndexError for an index beyond its ends.
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(() if modules is None else modules)

    def insert(self, index: int, module: Module) -> None:
        """Put a module before place `index`, as `list.insert` does; those behind it get new names."""
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)

    def __repr__(self) -> str:
        """Like Module's; neighbours that print alike are one line, "(0-3): 4 x ..."."""
        groups: list[tuple[int, int, str]] = []  # first, how many, text
        for i, module in enumerate(self):
            if groups and groups[-1][2] == repr(module):
                groups[-1] = groups[-1][0], groups[-1][1] + 1, groups[-1][2]
            else:
                groups.append((i, 1, repr(module)))
        lines = []
        for first, n, text in groups:
            place = f"({first}): " if n == 1 else f"({first}-{first + n - 1}): {n} x "
            lines.append("  " + (place + text).replace("\n", "\n  "))
        name = type(self).__name__
        return f"{name}(\n" + "\n".join(lines) + "\n)" if lines else f"{name}()"

    def __getitem__(self, index: Any) -> Any:
        """One module, or for a slice a ModuleList of those modules."""
        found = super().__getitem__(index)
        return type(self)(found) if isinstance(index, slice) else found


class ModuleDict(Module):
    """A dictionary of modules whose parameters are found.

    Raises KeyError for a name that one of its methods has, that is empty or has a dot.
    """

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update({} if modules is None else modules)

    def update(self, modules: Any) -> None:
        """Add modules under their names: a mapping, a ModuleDict, or (name, module) pairs.

        Raises TypeError for what is none of these, ValueError for pairs of another length.
        """
        for name, module in pairs("ModuleDict.update", modules):
            self[name] = module

    def clear(self) -> None:
        """Take all modules out."""
        for name in list(self):
            del self[name]

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
