"""Tensor: an array, and how it was computed. Its arithmetic and methods are bound in `dtrain.ops`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dtrain.autograd.graph import Node, backward
from dtrain.autograd.mode import mode
from dtrain.autograd.writes import mark_written
from dtrain.backend import Array, device_of, to_device, to_numpy, xp_of
from dtrain.backend.halves import converted, is_float

__all__ = ["Sink", "Tensor", "device"]


class device(str):  # noqa: N801  (PyTorch's name)
    """Where a tensor lives: "cpu" or "cuda:0". Equal to the string; `.type` and `.index` as in PyTorch."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """The kind of device: "cpu" or "cuda"."""
        return self.split(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]
        return int(self.split(":")[1]) if ":" in self else None


class Sink(Protocol):
    """Takes the gradients of tensors in the place of their `.grad`."""

    owner: object  # tensors of different owners are not put into one flat buffer

    def add(self, tensor: Tensor, g: Array) -> None:
        """Take a gradient."""

    def check(self) -> None:
        """Raise RuntimeError unless `.grad` is ready for an optimizer."""


class Tensor:
    """An array with a gradient.

    array: the raw NumPy (or CuPy) array, shared and never copied here; for writers of ops.
    requires_grad: whether operations on the tensor are recorded.
    grad: None, or the gradient after `backward()`, a Tensor of the same shape.

    `dtrain.tensor(data)` copies Python numbers and arrays into a new Tensor, as in PyTorch.
    """

    __slots__ = (
        "__weakref__", "_flat", "_node", "_sink", "array", "grad", "microbatch", "requires_grad",
    )  # fmt: skip

    __array_ufunc__ = None  # array * tensor is the tensor's business

    def __init__(self, array: Array, requires_grad: bool = False, node: Node | None = None) -> None:
        self.array = array if array.__class__ is np.ndarray else _as_array(array, self)
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self._node = node  # what computed it; for a leaf, its own node once it is used
        # Where the gradient goes instead of `.grad`: DistributedDataParallel's reducer.
        self._sink: Sink | None = None
        # The piece of a flat buffer that this tensor is: see dtrain/nn/flat.py.
        self._flat: Any = None
        # A DataLoader sets `microbatch`, its Mark (number, of how many), on what it yields; else the slot is empty.
        self.microbatch: Any

    # -- graph -----------------------------------------------------------------------------------

    @property
    def node(self) -> Node | None:
        """The node that produced this tensor (a leaf's own node), None where no gradient is needed."""
        if self._node is None and self.requires_grad:
            self._node = Node.of_leaf(self)
        return self._node

    @property
    def is_leaf(self) -> bool:
        """True for a tensor that the user made, False for the result of a recorded op."""
        return self._node is None or self._node.leaf is not None

    @property
    def grad_fn(self) -> Node | None:
        """The recorded op that computed this tensor, None for a leaf."""
        return None if self.is_leaf else self._node

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Add d(self)/d(leaf) to `.grad` of every leaf; see `dtrain.autograd.backward`."""
        backward(self, gradient, retain_graph, create_graph, inputs)

    def receive(self, g: Array) -> None:
        """Take the gradient of a walk that has reached this leaf: add it to `.grad`."""
        if self._sink is not None:
            self._sink.add(self, g)
        elif self.grad is not None:
            self.grad.array += g
        elif self._flat is not None:
            view = self._flat.grad
            if g is not view.array:
                view.array[...] = g
            self.grad = view
        else:
            self.grad = Tensor(xp_of(self.array).array(g, dtype=self.array.dtype))

    def room(self) -> Array | None:
        """The array that `receive` would only copy a gradient to; None if there is none."""
        if self._sink is not None or self.grad is not None or self._flat is None or self.array.itemsize == 2:
            return None
        return self._flat.grad.array

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call `hook(grad)` when this tensor's gradient is final; what it returns replaces it.

        Returns a handle whose `.remove()` takes the hook away. Raises RuntimeError where no gradient is needed.
        """
        node = self.node
        if node is None:
            raise RuntimeError("cannot register a hook on a tensor that does not require a gradient")
        if node.hooks is None:
            node.hooks = {}
        return _Handle(node.hooks, hook)

    def retain_grad(self) -> None:
        """Keep the gradient of a computed tensor in `.grad`; leaves keep theirs anyway."""
        if not self.is_leaf:

            def keep(g: Tensor) -> None:
                self.grad = g if self.grad is None else Tensor(self.grad.array + g.array)

            self.register_hook(keep)

    def detach(self) -> Tensor:
        """The same array without the graph."""
        return Tensor(self.array if mode.tape is None else mode.tape.array_of(self))

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Record operations on this tensor from now on. Raises RuntimeError unless it is floating-point."""
        if requires_grad and not is_float(self.array.dtype):
            raise RuntimeError(f"only floating-point tensors can require gradients, this one is {self.array.dtype}")
        self.requires_grad = requires_grad
        return self

    # -- the array -------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of all dimensions."""
        return self.array.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        """The type of the elements, one of NumPy's: dtrain.float32 is np.dtype("float32")."""
        return self.array.dtype

    @property
    def device(self) -> device:
        """Where the array is: "cpu", "cuda:0"."""
        return device(device_of(self.array))

    @property
    def data(self) -> Tensor:
        """The same array without the graph. Assigning copies into the present array where the shapes agree."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        same = value.array.shape == self.array.shape and value.array.dtype == self.array.dtype
        if same and device_of(value.array) == device_of(self.array):
            self.array[...] = value.array
            mark_written(self.array)
        else:
            self.array, self._flat, self.grad = value.array, None, None

    def size(self, dim: int | None = None) -> Any:
        """The shape, or its element `dim`."""
        return self.array.shape if dim is None else self.array.shape[dim]

    def dim(self) -> int:
        """The number of dimensions."""
        return self.array.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self.array.size

    def element_size(self) -> int:
        """Bytes per element."""
        return self.array.itemsize

    def is_floating_point(self) -> bool:
        """Whether the elements are floating-point numbers, which can have gradients."""
        return is_float(self.array.dtype)

    def is_contiguous(self) -> bool:
        """Whether the elements lie in memory in C order, without gaps."""
        return bool(self.array.flags.c_contiguous)

    def numpy(self) -> np.ndarray:
        """The NumPy array itself, sharing memory. Raises RuntimeError where gradients are needed, as in PyTorch."""
        if self.requires_grad:
            raise RuntimeError(
                "this tensor requires a gradient, which its NumPy array cannot carry: use tensor.detach().numpy()"
            )
        return self._values()

    def _values(self) -> np.ndarray:
        if mode.tape is not None:
            mode.tape.give_up("values are looked at outside of dtrain's operations")
        return to_numpy(self.array)

    def item(self) -> Any:
        """The only element as a Python number. Raises ValueError for more or fewer elements."""
        if self.array.size != 1:
            raise ValueError(f"item() needs a tensor of one element, this one has shape {self.shape}")
        return self._values().item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        return self._values().tolist()

    def cpu(self) -> Tensor:
        """This tensor on the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Tensor:
        """The tensor on a GPU, the current one or number `device`; itself where it is there. See `to`."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """On another device or in another dtype: to("cuda"), to("cpu"), to(dtrain.float64), to(other).

        Returns self where nothing changes. A conversion between floating-point dtypes is differentiable.
        """
        kwargs.pop("non_blocking", None)
        copy = kwargs.pop("copy", False)
        dtype, place = kwargs.pop("dtype", None), kwargs.pop("device", None)
        if kwargs:
            raise TypeError(f"to() got an unexpected argument {next(iter(kwargs))!r}")
        for a in args:
            if isinstance(a, Tensor):
                dtype, place = a.dtype, a.device
            elif isinstance(a, str):
                place = a
            elif a is not None and not isinstance(a, bool):
                dtype = np.dtype(a)
        dtype = self.array.dtype if dtype is None else dtype
        there = to_device(self.array, place) if place is not None else self.array
        if there is self.array and there.dtype == dtype and not copy:
            return self
        if mode.tape is not None or mode.enabled and self.requires_grad and is_float(dtype):
            from dtrain.autograd.op import cast

            return cast(self, dtype, device_of(there))
        made = Tensor(converted(there, dtype))
        if there.dtype == dtype and hasattr(self, "microbatch"):
            made.microbatch = self.microbatch  # it stands for what a DataLoader gave, elsewhere
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array.astype(dtype) if dtype is not None and dtype != array.dtype else array

    def __len__(self) -> int:
        if not self.array.ndim:
            raise TypeError("len() of a 0-dimensional tensor")
        return len(self.array)

    def __bool__(self) -> bool:
        if self.array.size != 1:
            raise ValueError(f"the truth of a tensor of shape {self.shape} is ambiguous; use .any() or .all()")
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return self.item().__index__()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and self.array.ndim == 0 else format(str(self), spec)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        body = np.array2string(self._values(), separator=", ", precision=4, prefix="tensor(")
        usual = self.dtype in (np.float32, np.int64, np.bool_)
        notes = "" if usual else f", dtype={self.dtype}"
        if not self.is_leaf and self._node is not None:
            notes += f", grad_fn=<{self._node.op}>"
        elif self.requires_grad:
            notes += ", requires_grad=True"
        return f"tensor({body}{notes})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("only leaf tensors can be deep-copied; use tensor.detach().clone()")
        twin = type(self).__new__(type(self))
        Tensor.__init__(twin, self.array.copy(), self.requires_grad)
        if self.grad is not None:
            twin.grad = Tensor(self.grad.array.copy())
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self._values(), self.requires_grad)

    if TYPE_CHECKING:
        # Bound by dtrain.ops.methods.
        def __getattr__(self, name: str) -> Callable[..., Any]: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...


class _Handle:
    """Takes a hook away again."""

    numbers = itertools.count()

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self.hooks, self.number = hooks, next(_Handle.numbers)
        hooks[self.number] = hook

    def remove(self) -> None:
        self.hooks.pop(self.number, None)


def _as_array(value: Any, tensor: Tensor) -> Array:
    """The array for a tensor: of a NumPy scalar (what reductions give), one of no dimensions."""
    if isinstance(value, (np.generic, int, float, bool)):
        return np.asarray(value)
    xp_of(value)
    return mode.tape.made(tensor, value) if mode.tape is not None and hasattr(value, "tape") else value


def _rebuild(cls: type[Tensor], array: Array, requires_grad: bool) -> Tensor:
    twin = cls.__new__(cls)
    Tensor.__init__(twin, array, requires_grad)
    return twin
