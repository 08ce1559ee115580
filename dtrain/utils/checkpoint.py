"""Activation checkpointing: less memory, for a second forward pass in backward. `torch.utils.checkpoint`.

Chen et al., "Training deep nets with sublinear memory cost", arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dtrain.autograd import Joint, Tensor, enable_grad, is_grad_enabled, op
from dtrain.autograd.graph import Node, walk
from dtrain.autograd.mode import mode
from dtrain.backend import Array, capture
from dtrain.backend.random import key

__all__ = ["checkpoint", "checkpoint_sequential"]


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """function(*args, **kwargs), a Tensor or a tuple of them, without keeping what its backward pass needs.

    In backward the function is run once more, in the same precision (`autocast`) and with the same random draws (others
    with preserve_rng_state=False), so it must compute the same again: statistics that it updates are updated twice, as
    in PyTorch. Its gradients, and those of all parameters that it uses, are the same bits as without. use_reentrant
    changes nothing. Gradients of gradients (create_graph=True) raise RuntimeError.
    """
    if not is_grad_enabled():
        return function(*args, **kwargs)
    capture.refuse("an activation checkpoint draws its random numbers once more")
    begin, precision = dict(key.__dict__), mode.autocast
    outputs, leaves = _run(function, args, kwargs)
    inputs = [a for a in args if isinstance(a, Tensor)]
    values = tuple(o.array for o in outputs)
    single = not isinstance(outputs, _Several)
    if not any(o.requires_grad for o in outputs):
        return outputs[0] if single else tuple(outputs)
    del outputs  # and with it the graph

    def again(g: Any, needs: Sequence[bool]) -> Sequence[Array | None]:
        gradients = [g] if single else g
        if any(hasattr(d, "tensor") for d in gradients):
            raise RuntimeError(
                "checkpoint() cannot be differentiated twice (create_graph=True); call the function itself"
            )
        here, nodes, outside = dict(key.__dict__), [leaf._node for leaf in leaves], mode.autocast
        mode.autocast = precision
        if preserve_rng_state:
            key.__dict__.update(begin)
        for leaf in leaves:
            leaf._node = None  # the walk that is under way counts on the leaf's own node
        try:
            return _gradients(function, args, kwargs, leaves, gradients)
        finally:
            key.__dict__.update(here)
            mode.autocast = outside
            for leaf, node in zip(leaves, nodes, strict=True):
                leaf._node = node

    @op
    def checkpointed(*arrays: Any) -> Any:
        return (values[0] if single else values), Joint(again)

    return checkpointed(*inputs, *leaves)


class _Several(list[Tensor]):
    """The outputs of a function that returned a tuple."""


def _run(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs for detached inputs, and all other leaves that they were computed from."""
    replaced = [_detached(a) for a in args]
    outputs = _outputs(function(*replaced, **kwargs))
    given = {id(a) for a in replaced}
    leaves: dict[int, Tensor] = {}
    seen: set[int] = set()
    stack: list[Any] = [o.node for o in outputs]
    while stack:
        node = stack.pop()
        if node.__class__ is not Node or id(node) in seen:
            continue
        seen.add(id(node))
        stack += node.parents
        leaf = node.leaf() if node.leaf is not None else None
        if leaf is not None and id(leaf) not in given:
            leaves[id(leaf)] = leaf
    return outputs, list(leaves.values())


def _outputs(returned: Any) -> list[Tensor]:
    several = isinstance(returned, (tuple, list))
    outputs = _Several(returned) if several else [returned]
    if not outputs or not all(isinstance(o, Tensor) for o in outputs):
        raise TypeError(
            f"checkpoint: the function must return a Tensor or a tuple of them, got {type(returned).__name__}"
        )
    return outputs


def _detached(a: Any) -> Any:
    return a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a


def _gradients(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    leaves: list[Tensor],
    gradients: Sequence[Any],
) -> Sequence[Array | None]:
    """The gradients of the inputs that are Tensors, then of the leaves."""
    replaced = [_detached(a) for a in args]
    with enable_grad():
        outputs = _outputs(function(*replaced, **kwargs))
    pairs = [(o.node, d) for o, d in zip(outputs, gradients, strict=True) if d is not None and o.requires_grad]
    tensors = [a for a in replaced if isinstance(a, Tensor)] + leaves
    if not pairs:
        return [None] * len(tensors)
    roots, seeds = zip(*pairs, strict=True)
    wanted = [t.node if t.requires_grad else None for t in tensors]
    return walk(roots, seeds, wanted=wanted)


def checkpoint_sequential(
    functions: Iterable[Callable[..., Any]],
    segments: int,
    input: Tensor,  # noqa: A002
    use_reentrant: bool | None = None,
    **kwargs: Any,
) -> Any:
    """The functions (a Sequential, say) one after the other, in pieces of which all but the last are checkpointed.

    Raises ValueError unless there is at least one function for each segment.
    """
    layers = list(functions)
    if not 1 <= segments <= len(layers):
        raise ValueError(
            f"checkpoint_sequential: segments must be 1 to {len(layers)}, the number of functions; got {segments}"
        )
    size = len(layers) // segments

    def piece(begin: int, end: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for layer in layers[begin:end]:
                x = layer(x)
            return x

        return run

    x = input
    for i in range(segments - 1):
        x = checkpoint(piece(i * size, (i + 1) * size), x, use_reentrant=use_reentrant, **kwargs)
    return piece((segments - 1) * size, len(layers))(x)
