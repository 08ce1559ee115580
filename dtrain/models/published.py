"""What all functions that make a model do with `weights`, `pretrained` and the other arguments."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from dtrain.hub import published_state_dict
from dtrain.nn import Module

__all__ = ["rename_keys", "with_weights"]


def with_weights(
    name: str,
    make: Callable[..., Module],
    weights: str | bool | None,
    progress: bool,
    options: dict[str, Any],
) -> Any:
    """make(**options), with the published weights of the model `name` if `weights` asks for them.

    weights: "DEFAULT", "IMAGENET1K_V1", ... (with or without "ResNet18_Weights." before it), True or None.
    options: what is left of the function's arguments. pretrained=True among them is torch.hub's old way to ask; comm is
    the job's communicator, over which one rank per host downloads.
    Raises ValueError where both ways ask, for weights that are not known, and for a number of classes that the weights
    do not have; OSError where they cannot be had.
    """
    pretrained = options.pop("pretrained", False)
    comm = options.pop("comm", None)
    if weights is not None and pretrained:
        raise ValueError(f"{name}: weights={weights!r} or pretrained={pretrained!r}, not both")
    wanted = pretrained if weights is None else weights
    if wanted and options.get("num_classes", 1000) != 1000:
        raise ValueError(
            f"{name}: the published weights have 1000 classes, num_classes is {options['num_classes']}; load them into "
            "the model of 1000, then put another layer in the place of its last one"
        )
    state = published_state_dict(name, wanted, progress=progress, comm=comm)
    model = make(**options)
    if state is not None:
        model.load_state_dict(state)
    return model


def rename_keys(state: MutableMapping[str, Any], prefix: str, renamed: Callable[[str], str | None]) -> None:
    """Rename in place the keys that begin with `prefix`: renamed(the rest) is the new rest, or None to leave it out.

    For `Module.register_load_state_dict_pre_hook`, where published keys differ from the model's.
    """
    for key in [key for key in state if key.startswith(prefix)]:
        value, rest = state.pop(key), renamed(key[len(prefix) :])
        if rest is not None:
            state[prefix + rest] = value
