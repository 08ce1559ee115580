"""The attributes of a module that are of one kind, as a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

__all__ = ["AttributesOf", "Kind"]


class AttributesOf(MutableMapping[str, Any]):
    """What PyTorch calls `module._parameters`, `_buffers` and `_modules`: a view, writing into which sets attributes.

    is_one(module, name, value): whether an attribute is of the kind.
    """

    def __init__(self, module: Any, is_one: Callable[[Any, str, Any], bool]) -> None:
        self.module, self.is_one = module, is_one

    def __getitem__(self, name: str) -> Any:
        value = self.module.__dict__[name]
        if not self.is_one(self.module, name, value):
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self.module, name, value)

    def __delitem__(self, name: str) -> None:
        self[name]
        delattr(self.module, name)

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, value in self.module.__dict__.items() if self.is_one(self.module, name, value)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return repr(dict(self))


class Kind:
    """Gives a class's instances their AttributesOf one kind. A subclass may use the name for something else."""

    def __init__(self, is_one: Callable[[Any, str, Any], bool]) -> None:
        self.is_one = is_one

    def __get__(self, module: Any, owner: Any = None) -> Any:
        return self if module is None else AttributesOf(module, self.is_one)
