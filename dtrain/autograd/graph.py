"""The graph that forward passes leave behind, and the walk that carries gradients back through it.

A `Node` stands for one executed op (or for a leaf: a tensor that the user made). The walk counts
consumers: a node is left as soon as its last consumer has contributed, and a leaf's gradient is
delivered at that moment, not after the walk. That is what lets gradients of the last layers travel
between ranks while the first layers are still being differentiated.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dtrain.backend import Array, xp_of

if TYPE_CHECKING:
    from dtrain.autograd.tensor import Tensor

__all__ = ["Joint", "Node", "Pieces", "backward", "backward_root", "grad", "on_backward_end", "under_way", "walk"]


class Joint:
    """A pullback that yields all gradients of an op at once.

    `function(g, needs)` returns a sequence with one gradient (or None) per positional input;
    `needs[i]` says whether input i wants one. Where the op returns a tuple, g is the list of the
    gradients of its elements, None for an element that was not used.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any, Sequence[bool]], Sequence[Array | None]]) -> None:
        self.function = function


class Pieces(list[Any]):
    """Gradients of the elements of an op that returns a tuple, added element by element."""

    def __add__(self, other: list[Any]) -> Pieces:
        return Pieces(b if a is None else a if b is None else a + b for a, b in zip(self, other, strict=True))

    __iadd__ = __add__  # type: ignore[assignment]


class Node:
    """One executed op: its inputs' nodes and the pullbacks that send a gradient to them.

    `parents[i]` is the node of input i, or the input itself where it is a tensor that needs no
    gradient (so that a module can be asked for the gradient of its input all the same), or None.
    """

    __slots__ = (
        "__weakref__", "grad", "hooks", "leaf", "op", "owned", "parents", "pending", "pullbacks", "shape",
    )  # fmt: skip

    def __init__(self, op: str, parents: Sequence[Any], pullbacks: Any, shape: tuple[int, ...] = ()) -> None:
        self.op = op
        self.shape = shape  # of what the op returned, and so of its gradient; () where that is a tuple
        self.parents = parents
        self.pullbacks = pullbacks
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


class _Walks(threading.local):
    """The backward calls that are under way in this thread: their roots, and what to call at their ends."""

    def __init__(self) -> None:
        self.under_way: list[tuple[Tensor | None, list[Callable[[], None]]]] = []


_walks = _Walks()


class under_way:  # noqa: N801
    """`with under_way(root):` a backward pass from `root`; what it leaves to be called is called if it ends well."""

    def __init__(self, root: Tensor | None) -> None:
        self.root = root

    def __enter__(self) -> None:
        _walks.under_way.append((self.root, []))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        callbacks = _walks.under_way.pop()[1]
        if error is None:
            for callback in callbacks:
                callback()


def backward_root() -> Tensor | None:
    """The tensor whose `backward()` is under way in this thread; None where a module's `backward` is.

    Raises RuntimeError outside of one.
    """
    if not _walks.under_way:
        raise RuntimeError("no backward walk is under way")
    return _walks.under_way[-1][0]


def on_backward_end(callback: Callable[[], None]) -> None:
    """Call `callback` once the backward walk that is under way in this thread has ended well.

    To be used from pullbacks and gradient hooks. Raises RuntimeError outside a walk.
    """
    if not _walks.under_way:
        raise RuntimeError("no backward walk is under way")
    _walks.under_way[-1][1].append(callback)


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool = False,
) -> None:
    """Add d(sum of tensors)/d(leaf) to `.grad` of every leaf that the tensors were computed from.

    grad_tensors: one gradient per tensor, of its shape; may be left out for tensors of one element.
    Raises RuntimeError for a tensor without a graph, and where a graph is walked a second time
    although `retain_graph` was not given the first time.
    """
    roots, seeds = _roots(tensors, grad_tensors)
    with under_way(roots[0]):
        walk([root.node for root in roots], seeds, retain_graph=retain_graph)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of outputs with respect to inputs; `.grad` of no tensor changes.

    Raises RuntimeError for an input that outputs do not depend on, unless allow_unused.
    """
    wanted = tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,)
    roots, seeds = _roots(outputs, grad_outputs)
    nodes = [root.node for root in roots]
    ends = [t.node or t for t in wanted]
    found = walk(nodes, seeds, retain_graph=retain_graph, wanted=ends)
    tensor = type(roots[0])
    for i, g in enumerate(found):
        if g is None and not allow_unused:
            raise RuntimeError(
                f"input {i} was not used to compute the outputs; pass allow_unused=True to get None for it"
            )
    return tuple(None if g is None else tensor(g) for g in found)


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
            seeds.append(xp_of(root.array).ones(root.shape, root.dtype))
        else:
            if tuple(g.shape) != root.shape:
                raise ValueError(f"the gradient has shape {tuple(g.shape)}, its tensor {root.shape}")
            seeds.append(g.array.astype(root.array.dtype, copy=False))
    return roots, seeds


def walk(
    roots: Sequence[Any],
    seeds: Sequence[Array],
    *,
    retain_graph: bool = False,
    wanted: Sequence[Any] = (),
    leave: bool = False,
) -> list[Array | None]:
    """Carry `seeds` back from the nodes `roots`; return the gradients of `wanted`.

    wanted: nodes, or tensors that need no gradient and so have none; None in it gets none.
    leave: stop at what is wanted (a module's inputs), and give the leaves before it their gradients.
    Otherwise, if anything is wanted, the walk goes on to the leaves and these get nothing.
    """
    found: dict[int, Array | None] = {id(end): None for end in wanted}
    stops = set(found) if leave else set()
    if len(roots) == 1:
        start = roots[0]
        start.grad = seeds[0]
    else:
        start = Node("backward", roots, tuple((lambda g, s=s: s) for s in seeds))
        start.grad = True  # the seeds are its pullbacks'
    visited = _count_consumers(start, stops)
    try:
        _propagate(start, found, stops, retain_graph, accumulate=leave or not wanted)
    except BaseException:
        for node in visited:
            node.pending, node.grad, node.owned = 0, None, False
        raise
    return [found[id(end)] for end in wanted]


def _count_consumers(start: Node, stops: set[int]) -> list[Node]:
    """Set `pending` of every node below `start` and not beyond `stops`, and return those nodes."""
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
        for parent in node.parents:
            if parent.__class__ is Node:
                parent.pending += 1
                if parent.pending == 1:
                    stack.append(parent)
    return visited


def _propagate(
    start: Node, found: dict[int, Array | None], stops: set[int], retain_graph: bool, accumulate: bool
) -> None:
    ready = [start]
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
                leaf.receive(g)
            continue
        parents, pullbacks = node.parents, node.pullbacks
        if not retain_graph:
            node.parents, node.pullbacks = (), None
        gradients: Sequence[Any] | None = None
        if g is None:
            gradients = [None] * len(parents)
        elif pullbacks.__class__ is Joint:
            gradients = pullbacks.function(g, [p.__class__ is Node or id(p) in found for p in parents])
        # Leaves go on top, so that their gradients start to travel before more is computed.
        below = leaves_below = len(ready)
        for i, parent in enumerate(parents):
            if parent.__class__ is not Node and (parent is None or id(parent) not in found):
                continue
            gradient = pullbacks[i](g) if gradients is None else gradients[i]
            if parent.__class__ is not Node:
                before = found[id(parent)]
                found[id(parent)] = gradient if before is None else before + gradient
                continue
            if gradient is not None:
                if parent.grad is None:
                    parent.grad = gradient
                elif parent.owned:
                    parent.grad += gradient
                else:
                    # The first contribution may be shared with other nodes: add out of place once.
                    parent.grad = parent.grad + gradient
                    parent.owned = True
            parent.pending -= 1
            if not parent.pending:
                if parent.leaf is None:
                    ready.insert(below, parent)
                    leaves_below += 1
                else:
                    ready.insert(leaves_below, parent)


def _run_hooks(node: Node, g: Array) -> Array:
    from dtrain.autograd.tensor import Tensor

    assert node.hooks is not None
    for hook in list(node.hooks.values()):
        replaced = hook(Tensor(g))
        if replaced is not None:
            g = replaced.array
    return g
