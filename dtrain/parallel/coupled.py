"""Steps of a model with SyncBatchNorm, whose microbatches depend on each other.

The output of microbatch 0 needs the statistics of microbatch 1. So when DistributedDataParallel is called with
the first microbatch of a step, the forward passes of all of the rank's microbatches run in lockstep
(lockstep.py), and their outputs are kept until they are asked for. The user's backward passes end at these
outputs. When all gradients of the outputs are in, the rest of the backward passes runs, in lockstep again. Every
microbatch finds the module as if it were alone with it: its attributes, buffers and random numbers are its own.

Each output's gradient is multiplied by its microbatch's weight there, because what comes out below is a
gradient of the weighted sum over all microbatches of the step already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from dtrain.autograd import Joint, Tensor, map_tensors
from dtrain.autograd.graph import Node, walk
from dtrain.autograd.op import op
from dtrain.autograd.under_way import under_way
from dtrain.backend import Array, xp_of
from dtrain.backend.random import key
from dtrain.nn.norm import SyncBatchNorm
from dtrain.parallel.attributes import Attributes
from dtrain.parallel.buffers import Buffers
from dtrain.parallel.lockstep import Lockstep
from dtrain.parallel.reducer import Reducer

__all__ = ["Coupled"]

# Draws in here are numbered apart from the loop's own, which come before these on some ranks and after them on others.
_FIRST_DRAW = 1 << 32


# The op that a tensor seems to come from which the module has returned, or left in an attribute.
_END = "model"


@dataclass(slots=True, eq=False)
class Part:
    """What is kept of one of the rank's microbatches during a step."""

    number: int
    draws: int = _FIRST_DRAW
    given: list[tuple[Any, bytes]] = field(default_factory=list)  # the arguments, and the bytes of arrays
    output: list[Any] = field(default_factory=list)  # until it is asked for
    attributes: Any = None  # of the module, as forward left them
    ends: list[tuple[Node, Array]] = field(default_factory=list)  # where backward ended, and the gradient there
    late: list[tuple[Tensor, Array]] = field(default_factory=list)  # gradients that arrived before their turn
    root: Tensor | None = None
    weight: float = 0.0
    loss: float = 0.0
    empty: bool = False


class Coupled:
    """Runs the module of `owner`, a DistributedDataParallel of more than one microbatch, in such steps.

    A step is `begin`; for each microbatch `forward`, and `close` when its backward pass has begun; after the
    last one `backward`. Meanwhile it takes the gradients of parameters in the place of the reducers.
    """

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.layers = [m for m in owner.module.modules() if isinstance(m, SyncBatchNorm)]
        self.lockstep = Lockstep(owner.comm, owner.microbatches)
        self.attributes = Attributes(owner.module.modules())

    def is_needed(self) -> bool:
        """Whether a SyncBatchNorm is in training."""
        return any(layer.training for layer in self.layers)

    def begin(self, step: int, buffers: Buffers, reducers: Sequence[Reducer]) -> None:
        """A step begins."""
        self.place, self.buffers, self.reducers = (key.seed, step), buffers, reducers
        self.parts = [Part(number) for number in self.lockstep.block]
        self.current = 0  # the part that the model was called with
        self.inside: Part | None = None  # the part whose forward pass goes on
        self.walking: int | None = None  # the part whose backward pass goes on below its outputs
        self.sinks = {id(t): reducer for reducer in reducers for t in reducer.flat.tensors}
        self.arrived = dict.fromkeys(self.sinks, 0)  # of how many parts in turn
        for reducer in reducers:
            for t in reducer.flat.tensors:
                t._sink = self

    # -- forward ---------------------------------------------------------------------------------

    def forward(self, k: int, args: Any, kwargs: Any) -> Any:
        """The output of the rank's k-th microbatch."""
        self.current = k
        part, leaves = self.parts[k], list(_leaves((args, kwargs)))
        if len(self.parts) == 1:
            part.output = self._run([(args, kwargs)])
        elif k == 0 and not part.given:
            if not any(hasattr(leaf, "microbatch") for leaf in leaves):
                raise RuntimeError(self._advice("no input comes from a DataLoader"))
            calls = [map_tensors(partial(_sibling, number=p.number), (args, kwargs)) for p in self.parts]
            for p, call in zip(self.parts, calls, strict=True):
                p.given = [(leaf, _bytes(leaf)) for leaf in _leaves(call)]
            for p, output in zip(self.parts, self._run(calls), strict=True):
                p.output = [output]
        if len(self.parts) > 1:
            self._check(part, leaves)
        self.attributes.restore(part.attributes)
        self._detach()
        self.buffers.restore()
        return part.output.pop()

    def _check(self, part: Part, leaves: list[Any]) -> None:
        """Are these the arguments that the part was computed with?"""
        if len(leaves) != len(part.given) or not all(map(_is_same, leaves, (leaf for leaf, _ in part.given))):
            raise RuntimeError(self._advice("an input is not what the DataLoader gave"))
        if any(_bytes(leaf) != before for leaf, before in part.given):
            raise RuntimeError(self._advice("an input was changed after the DataLoader gave it"))
        if not part.output:
            raise RuntimeError(self._advice("it is called twice in a microbatch"))

    def _advice(self, what: str) -> str:
        return (
            f"the model has SyncBatchNorm, so rank {self.owner.comm.rank} computes its {len(self.parts)} microbatches "
            f"of a step together when the model is called with the first, but {what}; call the model once for each "
            "microbatch, with what the DataLoader gives as it is (transforms belong into the data set, the collate_fn "
            f"or the model), or use as many ranks as microbatches ({self.owner.microbatches})"
        )

    def _run(self, calls: list[Any]) -> list[Any]:
        for i, layer in enumerate(self.layers):
            layer.gather = partial(self.lockstep.gather, i)
        self.before = self.attributes.save()
        try:
            run = [partial(self._forward, part, *call) for part, call in zip(self.parts, calls, strict=True)]
            return self._in_lockstep(run, self._go_inside)
        finally:
            self._go_inside(None)
            self._detach()

    def _detach(self) -> None:
        for layer in self.layers:
            vars(layer).pop("gather", None)

    def _go_inside(self, k: int | None) -> None:
        """The module is about to be in the forward pass of the k-th microbatch, or of none."""
        if self.inside is not None:
            self.inside.attributes = self.attributes.save()
        self.inside = None if k is None else self.parts[k]
        attributes = self.inside.attributes if self.inside is not None else None
        self.buffers.leave()
        self.attributes.restore(attributes or self.before)
        if k is not None:
            self.buffers.enter(k)

    def _in_lockstep(self, functions: Sequence[Callable[[], Any]], switch: Callable[[int], None]) -> list[Any]:
        """The functions' results. Each sees its own microbatch's buffers and random numbers."""

        def run(part: Part, function: Callable[[], Any]) -> Any:
            with key.at(*self.place, part.number):
                key.calls = key.calls_without_grad = part.draws
                result = function()
                part.draws = max(key.calls, key.calls_without_grad)
            return result

        try:
            return self.lockstep.run([partial(run, *pair) for pair in zip(self.parts, functions, strict=True)], switch)
        finally:
            self.buffers.leave()

    def _forward(self, part: Part, args: Any, kwargs: Any) -> Any:
        args, kwargs = map_tensors(partial(_enter, part), (args, kwargs))
        output = self.owner.module(*args, **kwargs)
        for t in _leaves((output, self.attributes.changed(self.before))):
            if isinstance(t, Tensor) and t.grad_fn is not None and t.grad_fn.op != _END:
                t._node = Node(_END, (), Joint(partial(self._end, part, t.grad_fn)), t.shape)
        return output

    # -- backward --------------------------------------------------------------------------------

    def _end(self, part: Part, node: Node, g: Array, needs: Sequence[bool]) -> tuple[()]:
        """The user's backward pass has come to an output of the model."""
        self.owner.open_microbatch()
        if part is not self.parts[self.current]:
            raise RuntimeError(
                f"backward() came to an output of the model for microbatch {part.number}, which is not the one under "
                "way; call backward() once for each microbatch, in their order, on the sum of its losses"
            )
        part.ends.append((node, g))
        return ()

    def close(self, k: int, weight: float, loss: float, empty: bool, root: Tensor | None) -> None:
        """What the user's backward pass of the k-th microbatch has begun with."""
        part = self.parts[k]
        part.weight, part.loss, part.empty, part.root = weight, loss, empty, root

    def add(self, tensor: Tensor, g: Array) -> None:
        """Take the gradient of a parameter."""
        self.owner.open_microbatch()
        if self.walking is None:  # the loss depends on it by another way than the outputs
            assert tensor.node is not None
            self.parts[self.current].ends.append((tensor.node, g))
        elif self.arrived[id(tensor)] == self.walking:
            self.arrived[id(tensor)] += 1
            self.sinks[id(tensor)].add(tensor, g)
        else:  # an earlier microbatch's may still come
            self.parts[self.walking].late.append((tensor, g))

    def check(self) -> None:
        """Raise RuntimeError unless all microbatches of the step are in."""
        self.owner.check_complete()

    def backward(self) -> None:
        """All outputs have their gradients: from there to the parameters, and into the sums."""
        for reducer in self.reducers:
            reducer.ready()
        for k, part in enumerate(self.parts):
            self.buffers.enter(k)
            self.owner.begin_microbatch(k, part.weight, part.loss, scale=0 if part.empty else None)
        _set_apart([part.ends for part in self.parts])
        self._in_lockstep([partial(self._backward, part) for part in self.parts], self._switch)
        self.walking = None
        for k, part in enumerate(self.parts):
            for reducer in self.reducers:
                reducer.resume(k)
            for tensor, g in part.late:
                self.sinks[id(tensor)].add(tensor, g)
            for reducer in self.reducers:
                reducer.end()
        self.parts = []

    def _switch(self, k: int) -> None:
        self.buffers.enter(k)
        for reducer in self.reducers:
            reducer.resume(k)
        self.walking = k

    def _backward(self, part: Part) -> None:
        ends, part.ends = part.ends, []
        # What has no weight may be NaN.
        seeds = [g * g.dtype.type(part.weight) if part.weight else xp_of(g).zeros_like(g) for _, g in ends]
        with under_way(part.root):
            if ends:
                walk([node for node, _ in ends], seeds)


def _set_apart(graphs: list[list[tuple[Node, Array]]]) -> None:
    """Give each of the graphs below these nodes leaves of its own: a walk keeps its counts and sums in the nodes."""
    found: dict[int, int] = {}
    for number, ends in enumerate(graphs):
        leaves: dict[int, Node] = {}
        seen: set[int] = set()

        def own(node: Any, leaves: dict[int, Node] = leaves) -> Any:
            if node.__class__ is not Node or node.leaf is None:
                return node
            if id(node) not in leaves:
                leaves[id(node)] = twin = Node("leaf", (), ())
                twin.leaf, twin.hooks = node.leaf, node.hooks
            return leaves[id(node)]

        ends[:] = [(own(node), g) for node, g in ends]
        stack: list[Any] = [node for node, _ in ends]
        while stack:
            node = stack.pop()
            if node.__class__ is not Node or node.leaf is not None:
                continue
            if found.setdefault(id(node), number) != number:
                raise RuntimeError(
                    f"two microbatches share what op '{node.op}' has computed, and both would send a gradient through "
                    "it; compute it in the model's forward, for each microbatch"
                )
            if id(node) not in seen:
                seen.add(id(node))
                node.parents = [own(parent) for parent in node.parents]
                stack += node.parents


# -- arguments and outputs -------------------------------------------------------------------------


def _leaves(value: Any) -> Iterator[Any]:
    """What is in tuples, lists, dicts and dataclasses, at whatever depth."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    elif is_dataclass(value) and not isinstance(value, type):
        value = tuple(getattr(value, f.name) for f in fields(value))
    if isinstance(value, (tuple, list)):
        for member in value:
            yield from _leaves(member)
    else:
        yield value


def _sibling(tensor: Tensor, number: int) -> Tensor:
    """What stands in the place of `tensor` in another microbatch of the step; itself where it is of none."""
    mark = getattr(tensor, "microbatch", None)
    return tensor if mark is None or mark[0] == number else mark.sibling(number).to(tensor.device)


def _enter(part: Part, x: Tensor) -> Tensor:
    """An input of the model. Its gradient is its own loss's again, without the weight."""
    if not x.requires_grad:
        return x

    @op
    def enter(x: Any) -> Any:
        return x, lambda g: g / g.dtype.type(part.weight) if part.weight else xp_of(g).zeros_like(g)

    return enter(x)


def _bytes(value: Any) -> bytes:
    array = value.array if isinstance(value, Tensor) else value
    return array.tobytes() if isinstance(array, np.ndarray) else b""


def _is_same(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor) and hasattr(before, "microbatch") and value.device != "cpu":
        return getattr(value, "microbatch", None) is before.microbatch and value.device == before.device
    return value is before or (not isinstance(value, (Tensor, np.ndarray)) and bool(value == before))
