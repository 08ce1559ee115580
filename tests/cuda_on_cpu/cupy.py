"""A stand-in for the module `cupy`, over NumPy: the CUDA backend's Python runs with it where there is no GPU.

It is as strict as CuPy where code for NumPy goes wrong with it: an array of the device never becomes one of the host
by itself, the two do not mix, reductions and elements are arrays of no dimensions, and only names that CuPy 14
has are there (`cupy_names.txt`). New memory is full of NaN. `syncs` counts how often the host waited for the device,
which no step may do that is to become a CUDA graph. Kernels are compiled for the CPU by `emulator.py`.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from dtrain.backend.cuda import cublaslt
from tests.cuda_on_cpu import emulator, nccl
from tests.cuda_on_cpu.cublaslt import Library

_NAMES, _METHODS = (part.split() for part in (Path(__file__).parent / "cupy_names.txt").read_text().split("\n\n"))


class Counter:
    """How often the host has waited for the device."""

    syncs = 0


_here = threading.local()


def _recorded(work: Callable[[], Any]) -> Any:
    """The result of `work`, given to the device. While a graph is captured it is noted, to be done at each launch of
    the graph: then new results are written where the first ones lie, which say the shapes only."""
    result = work()
    graph = getattr(_here, "graph", None)
    if graph is not None:
        graph.append((work, _parts(result)))
    return result


def _parts(result: Any) -> list[np.ndarray]:
    """The arrays of a result."""
    assert not isinstance(result, np.generic), "a graph cannot write to it"
    return [r for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, np.ndarray)]


def _waits(what: str = "the host waits for the device") -> None:
    Counter.syncs += 1
    if getattr(_here, "graph", None) is not None:
        raise RuntimeError(
            f"cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing ({what})"
        )


class Graph:
    """What was captured; `launch` does it again."""

    def __init__(self, works: list[Any]) -> None:
        self.works = works

    def launch(self, stream: Any = None) -> None:
        for work, firsts in self.works:
            for first, new in zip(firsts, _parts(work()), strict=True):
                if first is not new and not np.shares_memory(first, new):
                    first[...] = new


class _Alive(threading.local):
    """All memory of the device that this thread has arrays of, by id."""

    def __init__(self) -> None:
        self.arrays: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()


_alive = _Alive()


def _whole(host: np.ndarray) -> np.ndarray:
    while isinstance(host.base, np.ndarray):
        host = host.base
    return host


class ndarray:  # noqa: N801
    """An array of the device: NumPy's behind a wall."""

    __slots__ = ("__weakref__", "_host")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray) -> None:
        self._host = host
        whole = _whole(host)
        _alive.arrays[id(whole)] = whole

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in _METHODS:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        found = getattr(self._host, name)
        return _wrapped(found) if not callable(found) else _on_device(found)

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        def work() -> np.ndarray:
            with np.errstate(all="ignore"):
                return self._host.astype(dtype, order=order, copy=copy)

        return ndarray(_recorded(work))

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def take(self, indices: Any, axis: Any = None) -> ndarray:
        return _wrapped(_recorded(lambda: np.asarray(self._host.take(_index(indices), axis))))

    def get(self, stream: Any = None, out: Any = None, blocking: bool = True) -> np.ndarray:
        if out is None:
            out = np.empty_like(self._host)
        if blocking:
            _waits()
            out[...] = self._host
        elif getattr(_here, "graph", None) is not None:
            _here.graph.append((lambda: out.__setitem__(..., self._host), []))
        else:
            assert out.shape == self.shape and out.dtype == self.dtype and self.flags.c_contiguous
            _current().copy_later(out, self._host.copy())
        return out

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        assert array.shape == self.shape and array.dtype == self.dtype
        _recorded(lambda: self._host.__setitem__(..., array))

    def item(self) -> Any:
        _waits()
        return self._host.item()

    def tolist(self) -> Any:
        _waits()
        return self._host.tolist()

    @property
    def data(self) -> Any:
        whole = _whole(self._host)
        memory = SimpleNamespace(ptr=whole.ctypes.data, size=whole.nbytes)
        return SimpleNamespace(ptr=self._host.ctypes.data, device=self.device, mem=memory)

    @property
    def device(self) -> Any:
        return Device(0)

    @property
    def flags(self) -> Any:
        return self._host.flags

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        _count_data_dependent(key)
        return _wrapped(_recorded(lambda: np.asarray(self._host[_index(key)])))

    def __setitem__(self, key: Any, value: Any) -> None:
        def work() -> None:
            with np.errstate(all="ignore"):
                self._host[_index(key)] = _plain(value)

        _recorded(work)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc.__name__ not in _NAMES:
            return NotImplemented
        return _on_device(getattr(ufunc, method))(*inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function.__name__ not in _NAMES and not function.__module__.startswith("numpy.linalg"):
            return NotImplemented
        if "device" in kwargs:
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument 'device'")
        if function is np.einsum:
            return einsum(*args, **kwargs)
        return _on_device(function)(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> ndarray:
        return ndarray(self._host.copy())

    def __repr__(self) -> str:
        return f"on the device: {self._host!r}"


def _count_data_dependent(key: Any) -> None:
    """The shape of what a mask selects is known to the host only when the device has counted."""
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, ndarray) and part.dtype == bool:
            _waits()


def _plain(x: Any) -> Any:
    """What NumPy computes with; TypeError for an array of the host."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, (list, tuple)):
        return type(x)(map(_plain, x)) if not hasattr(x, "_fields") else x
    return x


def _index(key: Any) -> Any:
    """An index, which may have arrays of the host in it: CuPy copies those over."""
    if isinstance(key, (np.ndarray, list)) and getattr(_here, "graph", None) is not None:
        _waits("an index of the host is copied")
    if isinstance(key, tuple):
        return tuple(map(_index, key))
    return key._host if isinstance(key, ndarray) else key


def _wrapped(result: Any) -> Any:
    if isinstance(result, (np.ndarray, np.generic)):
        return ndarray(np.asarray(result))
    if isinstance(result, (list, tuple)) and any(isinstance(r, (np.ndarray, np.generic)) for r in result):
        return type(result)(map(_wrapped, result)) if type(result) in (list, tuple) else tuple(map(_wrapped, result))
    return result


def _on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for arrays of the device."""

    def call(*args: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        if isinstance(out, tuple):
            (out,) = out

        def work() -> Any:
            with np.errstate(all="ignore"):
                result = function(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()})
            return _arrays(result)

        result = _recorded(work)
        return out if isinstance(out, ndarray) else _wrapped(result)

    return call


def _arrays(result: Any) -> Any:
    """NumPy's numbers as arrays, which a graph can write to."""
    if isinstance(result, np.generic):
        return np.array(result)
    if isinstance(result, (list, tuple)) and any(isinstance(r, (np.ndarray, np.generic)) for r in result):
        return tuple(np.asarray(r) if isinstance(r, (np.ndarray, np.generic)) else r for r in result)
    return result


def _operator(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def call(self: ndarray, *others: Any) -> Any:
        if any(not isinstance(o, (ndarray, np.ndarray, np.generic, int, float, complex)) for o in others):
            return NotImplemented

        def work() -> Any:
            with np.errstate(all="ignore"):
                return _arrays(function(self._host, *map(_plain, others)))

        result = _recorded(work)
        if result is NotImplemented:
            return result
        return self if result is self._host else _wrapped(result)

    return call


_ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()  # noqa: SIM905
for _name in [*_ARITHMETIC, *(f"r{n}" for n in _ARITHMETIC), *(f"i{n}" for n in _ARITHMETIC if n != "matmul")]:
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in ["neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge"]:
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def _waiting(name: str) -> Callable[[ndarray], Any]:
    def call(self: ndarray) -> Any:
        _waits()
        return getattr(self._host, name)()

    return call


for _name in ["bool", "int", "float", "index", "complex"]:
    setattr(ndarray, f"__{_name}__", _waiting(f"__{_name}__"))


class Device:
    """The one device."""

    def __init__(self, device: int = 0) -> None:
        self.id = int(device)
        if self.id >= sys.modules["cupy"].cuda.runtime.getDeviceCount():
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc: Any) -> None:
        pass

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        _waits()

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02X}:00.0"

    @property
    def mem_info(self) -> tuple[int, int]:
        return 1 << 30, 1 << 31


class Stream:
    """Work on it is done at once, but copies to the host: who reads one without waiting for it finds NaN."""

    ptr = 0

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.pending: list[tuple[np.ndarray, np.ndarray]] = []
        self.before: list[Stream] = []

    def __enter__(self) -> Stream:
        self.before.append(_current())
        _here.stream = self
        return self

    def __exit__(self, *exc: Any) -> None:
        _here.stream = self.before.pop()

    def begin_capture(self, mode: Any = None) -> None:
        assert self is not _null and _current() is self, "a graph is captured on a stream that is not the default one"
        _here.graph = []
        _here.before = [(array, array.copy()) for array in list(_alive.arrays.values())]

    def end_capture(self) -> Graph:
        works, _here.graph = _here.graph, None
        for array, values in _here.before:  # what is captured is not done
            array[...] = values
        return Graph(works)

    def copy_later(self, out: np.ndarray, values: np.ndarray) -> None:
        np.atleast_1d(out).view(np.uint8)[...] = 0xFF
        self.pending.append((out, values))

    def record(self, event: Any = None) -> Any:
        return Event(self.pending)

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)

    def synchronize(self) -> None:
        self.record().synchronize()


class Event:
    """After all copies that were begun before it."""

    def __init__(self, pending: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.pending, self.copies = pending, list(pending)

    def synchronize(self) -> None:
        _waits()
        for out, values in self.copies:
            out[...] = values
        done = set(map(id, self.copies))
        self.pending[:] = [copy for copy in self.pending if id(copy) not in done]
        self.copies = []


_null = Stream()


def _current() -> Stream:
    return getattr(_here, "stream", _null)


class MemoryPool:
    """Knows nothing: NumPy's memory is used."""

    def malloc(self, nbytes: int) -> None:
        raise AssertionError("nobody calls this")

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        pass


class RawModule:
    """Kernels of a source, compiled for the CPU."""

    def __init__(self, code: str, options: tuple[str, ...] = (), name_expressions: Any = None) -> None:
        self.module = emulator.Module(code, list(name_expressions))

    def get_function(self, name: str) -> Any:
        function = self.module.get_function(name)

        def start(grid: Any, block: Any, args: Any, **kwargs: Any) -> None:
            args = [a.copy() if isinstance(a, np.generic) else a for a in args]
            _recorded(lambda: function(grid, block, args, **kwargs))

        return start


class OutOfMemoryError(MemoryError):
    """As CuPy names it."""


def _pinned(nbytes: int) -> Any:
    return bytearray(nbytes)


_registered: list[int] = []


def _register(pointer: int, nbytes: int, flags: int) -> None:
    assert pointer and nbytes > 0 and flags == 0 and pointer not in _registered
    _registered.append(pointer)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    host = np.empty(shape, dtype, order)
    if host.size:
        host.ravel(order="K").view(np.uint8)[...] = 0xFF
    return ndarray(host)


def empty_like(x: ndarray, dtype: Any = None, **kwargs: Any) -> ndarray:
    return empty(x.shape, x.dtype if dtype is None else dtype)


def asarray(a: Any, dtype: Any = None, order: Any = None, *, blocking: bool = False) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    if getattr(_here, "graph", None) is not None:
        _waits("an array of the host is copied")
    if isinstance(a, (list, tuple)):
        a = [_plain(part) for part in a]
    return ndarray(np.array(a, dtype))


def array(a: Any, dtype: Any = None, copy: bool = True, order: Any = "K", ndmin: int = 0) -> ndarray:
    made = asarray(a, dtype)
    return ndarray(_recorded(lambda: made._host.copy())) if copy and made is a else made


def asnumpy(a: Any, stream: Any = None, order: Any = "C", out: Any = None) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def concatenate(tup: Any, axis: Any = 0, **kwargs: Any) -> ndarray:
    if len(tup) > 8 and getattr(_here, "graph", None) is not None:
        _waits("the addresses of more than 8 arrays are sent")
    return _on_device(np.concatenate)(tup, axis, **kwargs)


def einsum(*operands: Any, **kwargs: Any) -> Any:
    if kwargs:
        raise TypeError(f"Did not understand the following kwargs: {list(kwargs)}")
    return _on_device(np.einsum)(*operands)


def unique(ar: ndarray, *args: Any, **kwargs: Any) -> Any:
    _waits()
    return _on_device(np.unique)(ar, *args, **kwargs)


def nonzero(a: ndarray) -> Any:
    _waits()
    return _on_device(np.nonzero)(a)


def host(a: Any) -> np.ndarray:
    """For tests: the values, without counting."""
    return a._host if isinstance(a, ndarray) else a


def as_module() -> ModuleType:
    """What `import cupy` finds."""
    module = ModuleType("cupy")

    def missing(name: str) -> Any:
        if name not in _NAMES or name.startswith("__"):
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        found = getattr(np, name)
        return _on_device(found) if callable(found) and not isinstance(found, type) else found

    module.__getattr__ = missing  # type: ignore[method-assign]
    pool = MemoryPool()
    cuda = SimpleNamespace(
        Device=Device, Stream=Stream, Event=Event, MemoryPool=MemoryPool, get_current_stream=_current, nccl=nccl,
        using_allocator=lambda allocator: nullcontext(),
        is_available=lambda: True, alloc_pinned_memory=_pinned,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(
            getDeviceCount=lambda: 1, getDevice=lambda: 0, deviceSynchronize=lambda: None,
            hostRegister=_register, hostUnregister=_registered.remove,
            CUDARuntimeError=RuntimeError,
            runtimeGetVersion=lambda: 13000, driverGetVersion=lambda: 13000,
            getDeviceProperties=lambda i: {"name": b"emulated", "multiProcessorCount": 4, "major": 9, "minor": 0},
        ),
    )  # fmt: skip
    own = {f.__name__: f for f in (empty, empty_like, asarray, array, asnumpy, einsum, unique, nonzero, concatenate)}
    for name, thing in {
        **own, "ndarray": ndarray, "RawModule": RawModule, "cuda": cuda, "__version__": "14.2.0",
        "get_default_memory_pool": lambda: pool, "get_array_module": lambda *a: module, "linalg": _Linalg(),
        "lib": SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_on_device(np.lib.stride_tricks.as_strided))),
        "ascontiguousarray": lambda a, dtype=None: ndarray(_recorded(lambda: np.ascontiguousarray(_plain(a), dtype))),
    }.items():  # fmt: skip
        setattr(module, name, thing)
    return module


class _Linalg:
    def __getattr__(self, name: str) -> Any:
        return _on_device(getattr(np.linalg, name))


@contextmanager
def installed() -> Iterator[ModuleType]:
    """`import cupy` finds the stand-in inside."""
    module = as_module()
    module.host, module.counter = host, Counter  # type: ignore[attr-defined]
    here = {"cupy": module, "cupy.cuda": module.cuda}
    before = {name: sys.modules.get(name) for name in here}
    sys.modules.update(here)  # type: ignore[arg-type]
    module.cublaslt = Library()  # type: ignore[attr-defined]
    load, cublaslt.load = cublaslt.load, lambda: module.cublaslt
    try:
        yield module
    finally:
        cublaslt.load = load
        for kept in (cublaslt._plan, cublaslt._of_device, cublaslt.why_not):
            kept.cache_clear()
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
