"""The graph that forward passes leave behind, and the walk that carries gradients back through it.

A `Node` stands for one executed op (or for a leaf: a tensor that the user made). The walk counts
consumers: a node is left as soon as its last consumer has contributed, and a leaf's gradient is
delivered at that moment, not after the walk. That is what lets gradients of the last layers travel
between ranks while the first layers are still being differentiated.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.autograd.memory import explain
from dtrain.autograd.mode import mode
from dtrain.autograd.pullbacks import Into, Joint
from dtrain.autograd.under_way import under_way
from dtrain.autograd.writes import check_unspoiled, writes
from dtrain.backend import Array, backend_of, on_gpu, xp_of
from dtrain.backend.halves import halved, widened

if TYPE_CHECKING:
    from dtrain.autograd.tensor import Tensor

__all__ = ["PASSING", "Node", "backward", "grad", "walk"]


class Node:
    """One executed op: its inputs' nodes and the pullbacks that send a gradient to them.

    `parents[i]` is the node of input i, or the input itself where it is a tensor that needs no
    gradient (so that a module can be asked for the gradient of its input all the same), or what else
    the op was given.
    """

    __slots__ = (
        "__weakref__", "call", "grad", "hooks", "leaf", "op", "owned", "parents", "pending", "pullbacks", "shape",
        "time",
    )  # fmt: skip

    def __init__(
        self, op: str, parents: Sequence[Any], pullbacks: Any, shape: tuple[int, ...] = (), call: Any = None
    ) -> None:
        self.op = op
        self.shape = shape  # of what the op returned, and so of its gradient; () where that is a tuple
        self.parents = parents
        self.pullbacks = pullbacks
        self.call = call  # a `Call`: how to run the op again, for create_graph
        self.time = writes.now  # what was written in place later may have spoiled what the pullbacks keep
        self.pending = 0  # consumers that have yet to contribute to the gradient
        self.grad: Any = None  # the sum of the contributions so far
        self.owned = False  # whether grad was made here, so that it may be added to in place
        self.hooks: dict[int, Callable[[Tensor], Tensor | None]] | None = None
        self.leaf: Callable[[], Tensor | None] | None = None

    @classmethod
    def of_leaf(cls, tensor: Tensor) -> Node:
        """The node of a tensor that was not computed. It does not keep the tensor alive."""
        node = cls("leaf", (), ())
        node.leaf = weakref.ref(tensor)
        return node

    def room(self) -> Array | None:
        """Where a leaf would keep the gradient that is now to come, if that is all of it and goes there as it is."""
        leaf = None if self.leaf is None else self.leaf()
        return None if leaf is None or self.pending > 1 or self.grad is not None or self.hooks else leaf.room()


#: The `call` of a node whose pullbacks only pass gradients on: they take recorded ones as they are.
PASSING = object()


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add d(sum of tensors)/d(leaf) to `.grad` of every leaf that the tensors were computed from.

    grad_tensors: one gradient per tensor, of its shape; may be left out for tensors of one element.
    retain_graph: keep what a second walk needs; create_graph unless given. create_graph: record the
    gradients' own computation, so that they can be differentiated again. inputs: only these tensors get
    a gradient. Raises RuntimeError for a tensor without a graph, and where a graph is walked a second time
    although `retain_graph` was not given the first time.
    """
    roots, seeds = _roots(tensors, grad_tensors)
    retain = create_graph if retain_graph is None else retain_graph
    nodes = [root.node for root in roots]
    with under_way(roots[0]) if mode.tape is None else mode.tape.backward(roots[0]):
        if inputs is None:
            walk(nodes, seeds, retain_graph=retain, create_graph=create_graph)
            return
        chosen = tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,)
        found = walk(nodes, seeds, retain_graph=retain, wanted=[t.node for t in chosen], create_graph=create_graph)
        for t, g in zip(chosen, found, strict=True):
            if g is not None:
                _deliver(t, g)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    *,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of outputs with respect to inputs; `.grad` of no tensor changes.

    Arguments as for `backward`; only what lies between outputs and inputs is walked. With create_graph
    the gradients can be differentiated again. An input that outputs do not depend on is an error
    (RuntimeError), or gets None with allow_unused, or zeros with materialize_grads.
    """
    if not only_inputs:
        raise ValueError("grad: only_inputs=False is not supported, in PyTorch neither; use backward()")
    wanted = tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,)
    roots, seeds = _roots(outputs, grad_outputs)
    nodes = [root.node for root in roots]
    ends = [t.node or t for t in wanted]
    retain = create_graph if retain_graph is None else retain_graph
    found = walk(nodes, seeds, retain_graph=retain, wanted=ends, create_graph=create_graph)
    tensor = _tensor_class()
    gradients = []
    for i, g in enumerate(found):
        if g is None and materialize_grads:
            g = xp_of(wanted[i].array).zeros_like(wanted[i].array)
        elif g is None and not allow_unused:
            raise RuntimeError(
                f"input {i} was not used to compute the outputs; pass allow_unused=True to get None for it"
            )
        gradients.append(None if g is None else g.tensor if hasattr(g, "tensor") else tensor(g))
    return tuple(gradients)


def _tensor_class() -> type[Tensor]:
    from dtrain.autograd.tensor import Tensor

    return Tensor


def _deliver(tensor: Tensor, g: Any) -> None:
    """Add g to `.grad`; a recorded g so that it can be differentiated again."""
    recorded = getattr(g, "tensor", None)
    if recorded is None or tensor._sink is not None:
        tensor.receive(g if recorded is None else recorded.array)
    else:
        tensor.grad = recorded if tensor.grad is None else tensor.grad + recorded


def _one(array: Any) -> Any:
    """1, of the array's shape, dtype and kind; it has one element."""
    if array.__class__ is np.ndarray and not array.ndim:
        return np.array(1, array.dtype)  # faster
    return xp_of(array).ones(array.shape, array.dtype)


def _roots(tensors: Any, grads: Any) -> tuple[list[Tensor], list[Array]]:
    """Tensors and their gradients as lists of equal length, checked."""
    roots = list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]
    given = list(grads) if isinstance(grads, (list, tuple)) else [grads] * len(roots)
    if len(given) != len(roots):
        raise ValueError(f"got {len(roots)} tensors but {len(given)} gradients")
    seeds = []
    for root, g in zip(roots, given, strict=True):
        if not root.requires_grad:
            raise RuntimeError("this tensor does not require a gradient and was not computed from one that does")
        if g is None:
            if root.array.size != 1:
                raise RuntimeError(
                    f"a gradient can be left out only for a tensor of one element; this one has shape {root.shape}"
                )
            seeds.append(_one(root.array))
        else:
            if tuple(g.shape) != root.shape:
                raise ValueError(f"the gradient has shape {tuple(g.shape)}, its tensor {root.shape}")
            seeds.append(g if g.requires_grad or g.dtype == root.dtype else g.array.astype(root.dtype))
    return roots, seeds


def walk(
    roots: Sequence[Any],
    seeds: Sequence[Any],
    *,
    retain_graph: bool = False,
    wanted: Sequence[Any] = (),
    leave: bool = False,
    create_graph: bool = False,
) -> list[Any]:
    """Carry `seeds` (arrays; Tensors too with create_graph) back from nodes `roots`; return the gradients of `wanted`.

    wanted: nodes, or tensors that need no gradient and so have none; None in it gets none.
    leave: stop at what is wanted (a module's inputs), and give the leaves before it their gradients.
    Otherwise, if anything is wanted, only what lies between it and the roots is walked.
    create_graph: the gradients are `Recorded`, and the graph is kept.
    """
    again: Callable[..., Sequence[Any]] | None = None
    if create_graph:
        from dtrain.autograd.recorded import Again, as_recorded

        again, seeds = Again(), [as_recorded(seed) for seed in seeds]
    else:
        seeds = [getattr(seed, "array", seed) for seed in seeds]
    found: dict[int, Any] = {id(end): None for end in wanted if end is not None}
    stops = set(found) if leave else set()
    if len(roots) == 1:
        start = roots[0]
        start.grad = seeds[0]
    else:
        start = Node("backward", roots, tuple((lambda g, s=s: s) for s in seeds), call=PASSING)
        start.grad = True  # the seeds are its pullbacks'
    between = _between(start, found) if found and not leave else None
    visited = _count_consumers(start, stops, between)
    try:
        _propagate(start, found, stops, between, retain_graph, leave or not wanted, again)
    except BaseException as error:
        for node in visited:
            node.pending, node.grad, node.owned = 0, None, False
        if isinstance(error, MemoryError):
            explain(error, "backward", seeds)
        raise
    return [found.get(id(end)) for end in wanted]


def _between(start: Node, found: dict[int, Any]) -> set[int]:
    """The ids of the nodes below `start` from which something wanted is reached."""
    leading: set[int] = set()
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(start, False)]
    while stack:
        node, done = stack.pop()
        if done:
            if id(node) in found or any(id(p) in leading or id(p) in found for p in node.parents):
                leading.add(id(node))
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(p, False) for p in node.parents if p.__class__ is Node and id(p) not in seen]
    return leading


def _count_consumers(start: Node, stops: set[int], between: set[int] | None) -> list[Node]:
    """Set `pending` of every node below `start`, of `between` and not beyond `stops`, and return those nodes."""
    visited = []
    stack = [start]
    while stack:
        node = stack.pop()
        visited.append(node)
        if id(node) in stops:
            continue
        if node.pullbacks is None:
            for seen in (*visited, *stack):
                seen.pending = 0
            raise RuntimeError(
                f"backward went through op '{node.op}' a second time, but its saved values were "
                "freed the first time; call backward(retain_graph=True) the first time"
            )
        if node.time < writes.now and node.pullbacks:
            check_unspoiled(node)
        for parent in node.parents:
            if parent.__class__ is Node and (between is None or id(parent) in between):
                parent.pending += 1
                if parent.pending == 1:
                    stack.append(parent)
    return visited


def _propagate(
    start: Node,
    found: dict[int, Any],
    stops: set[int],
    between: set[int] | None,
    retain_graph: bool,
    accumulate: bool,
    again: Callable[..., Sequence[Any]] | None,
) -> None:
    ready, tape = [start], mode.tape
    while ready:
        node = ready.pop()
        g, node.grad, node.owned = node.grad, None, False
        if node.hooks and g is not None:
            g = _run_hooks(node, g)
        if found and id(node) in found:
            found[id(node)] = g
            if id(node) in stops:
                continue
        if node.leaf is not None:
            leaf = node.leaf()
            if accumulate and g is not None and leaf is not None and leaf.requires_grad:
                if again is not None:
                    _deliver(leaf, g)
                elif tape is None:
                    leaf.receive(g)
                else:
                    tape.call(leaf.receive, (g,))
            continue
        parents, pullbacks = node.parents, node.pullbacks
        gradients: Sequence[Any] | None = None
        if g is None:
            gradients = [None] * len(parents)
        elif pullbacks.__class__ is Joint or again is not None:
            if between is None:
                needs = [p.__class__ is Node or id(p) in found for p in parents]
            else:
                needs = [id(p) in between or id(p) in found for p in parents]
            gradients = pullbacks.function(g, needs) if again is None else again(node, g, needs)
        if not retain_graph:
            node.parents, node.pullbacks, node.call = (), None, None
        # Leaves go on top, so that their gradients start to travel before more is computed.
        below = leaves_below = len(ready)
        for i, parent in enumerate(parents):
            if parent.__class__ is not Node:
                if parent is None or not found or id(parent) not in found:
                    continue
            elif between is not None and id(parent) not in between:
                continue
            if gradients is not None:
                gradient = gradients[i]
            elif pullbacks[i].__class__ is Into and accumulate and not found:
                gradient = pullbacks[i].function(g, parent.room())
            else:
                gradient = pullbacks[i](g)
            if parent.__class__ is not Node:
                before = found[id(parent)]
                found[id(parent)] = gradient if before is None else before + gradient
                continue
            if gradient is not None:
                if parent.grad is None:
                    parent.grad = gradient
                elif getattr(gradient, "itemsize", 0) == 2:
                    parent.grad = _sum(parent.grad, gradient)
                elif parent.owned:
                    parent.grad += gradient
                else:
                    # The first contribution may be shared with other nodes: add out of place once.
                    parent.grad = _sum(parent.grad, gradient)
                    parent.owned = True
            parent.pending -= 1
            if not parent.pending:
                if parent.leaf is None:
                    ready.insert(below, parent)
                    leaves_below += 1
                else:
                    ready.insert(leaves_below, parent)


def _sum(a: Any, b: Any) -> Any:
    """Two gradients of one array; those of two-byte floats are added in float32."""
    if mode.tape is not None:
        return mode.tape.call(_sum, (a, b))
    two_bytes = getattr(b, "itemsize", 0) == 2
    if (two_bytes or on_gpu(b)) and a.__class__ is b.__class__ and a.shape == b.shape and a.dtype == b.dtype:
        return backend_of(a).add(a, b)
    return halved(widened(a) + widened(b), b.dtype) if two_bytes else a + b


def _run_hooks(node: Node, g: Any) -> Any:
    assert node.hooks is not None
    recorded = hasattr(g, "tensor")
    for hook in list(node.hooks.values()):
        replaced = hook(g.tensor if recorded else _tensor_class()(g))
        if replaced is not None:
            g = type(g)(replaced) if recorded else replaced.array
    return g
