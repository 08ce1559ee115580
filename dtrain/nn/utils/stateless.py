"""A module called with other tensors in the place of its parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dtrain.autograd import Tensor
from dtrain.nn.module import Module

__all__ = ["functional_call"]


def functional_call(
    module: Module,
    parameters_and_buffers: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """module(*args, **kwargs) with the given tensors under their dotted names; the module is as before afterwards.

    args: a tuple, or the only argument. tie_weights: what the module uses under several names is replaced under all of
    them. Raises ValueError for a name that comes twice, RuntimeError with strict for names that are missing or unknown.
    """
    dicts = [parameters_and_buffers] if isinstance(parameters_and_buffers, Mapping) else list(parameters_and_buffers)
    given: dict[str, Tensor] = {}
    for part in dicts:
        if twice := sorted(given.keys() & part.keys()):
            raise ValueError(f"functional_call: given twice: {', '.join(twice)}")
        given.update(part)
    own: dict[str, Tensor] = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    if tie_weights:
        by_tensor = {id(own[name]): value for name, value in given.items() if name in own}
        given = {**{name: by_tensor[id(t)] for name, t in own.items() if id(t) in by_tensor}, **given}
    if strict and given.keys() != own.keys():
        missing, unknown = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        raise RuntimeError(f"functional_call: missing {missing}, unknown {unknown} in {type(module).__name__}")
    places = []
    for name, value in given.items():
        if name in own:
            path, _, last = name.rpartition(".")
            places.append((module.get_submodule(path).__dict__, last, own[name], value))
    try:
        for attributes, last, _, value in places:
            attributes[last] = value
        arguments = () if args is None else args if isinstance(args, tuple) else (args,)
        return module(*arguments, **(kwargs or {}))
    finally:
        for attributes, last, before, _ in places:
            attributes[last] = before
