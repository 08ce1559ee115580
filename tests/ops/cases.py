"""One table of calls of every op: what the gradient checks and the comparison with PyTorch run through.

A case is the op's name, its inputs and its keyword arguments. An input is a shape (normal draws), a
float array (differentiated), `fixed(array)` (not differentiated), or anything else, handed on as it
is. `call` is a function of (namespace, *inputs) where the call is not namespace.name(*inputs, **kwargs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["CASES", "Case", "fixed"]


class fixed:
    """An array that becomes a tensor without gradient: integers, bools, class weights."""

    def __init__(self, values: Any) -> None:
        self.array = np.asarray(values)


@dataclass(frozen=True)
class Case:
    name: str
    inputs: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    call: Callable[..., Any] | None = None
    smooth: bool = True  # whether finite differences make sense at this point

    def arrays(self, dtype: Any) -> list[Any]:
        """The inputs, float arrays in `dtype` with their memory layout kept."""
        rng = np.random.default_rng(len(repr(self.inputs)))
        made = []
        for x in self.inputs:
            if isinstance(x, tuple):
                x = rng.standard_normal(x)
            if isinstance(x, np.ndarray):
                x = x.astype(dtype)
            elif isinstance(x, fixed) and x.array.dtype.kind == "f":
                x = fixed(x.array.astype(dtype))
            made.append(x)
        return made

    def run(self, namespace: Any, *inputs: Any) -> Any:
        if self.call is not None:
            return self.call(namespace, *inputs, **self.kwargs)
        return getattr(namespace, self.name)(*inputs, **self.kwargs)

    def __str__(self) -> str:
        shown = [
            x if isinstance(x, tuple) else getattr(x, "shape", None) or getattr(x, "array", x) for x in self.inputs
        ]
        shown = [x.shape if isinstance(x, np.ndarray) else x for x in shown]
        options = "".join(f",{k}={v}" for k, v in self.kwargs.items())
        return f"{self.name}({','.join(map(str, shown))}{options})".replace(" ", "")


_rng = np.random.default_rng(7)


def _positive(*shape: int) -> np.ndarray:
    return _rng.uniform(0.5, 2.0, shape)


def _transposed(*shape: int) -> np.ndarray:
    """Values whose memory runs the other way: not contiguous."""
    return _rng.standard_normal(shape[::-1]).T


def _distinct(*shape: int) -> np.ndarray:
    """Numbers far enough apart that finite differences never change their order."""
    return _rng.permutation(int(np.prod(shape))).reshape(shape) * 0.25 - 1.0


def _cases(name: str, *calls: Any, **options: Any) -> list[Case]:
    """Cases of one op; a call is its inputs, or (inputs, kwargs)."""
    made = []
    for call in calls:
        inputs, kwargs = call if len(call) == 2 and isinstance(call[1], dict) else (call, {})
        made.append(Case(name, tuple(inputs), kwargs, **options))
    return made


NAN, INF = float("nan"), float("inf")

_BROADCAST = [
    ((2, 3), (2, 3)), ((2, 1, 3), (4, 1)), ((3,), (2, 3)), ((), (2,)), ((2,), ()), ((), ()), ((0, 3), (1, 3)),
    ((2, 0), (1,)), ((1, 1), (3, 4)), (_transposed(3, 4), (3, 4)), (_transposed(2, 3, 4), (3, 1)),
]  # fmt: skip

_ARITHMETIC = [
    *_cases("add", *_BROADCAST, ((2, 3), 1.5), ((2, 3), 2), ((0,), 1)),
    *_cases("sub", *_BROADCAST, ((2, 3), 1.5), ((), 2)),
    *_cases("mul", *_BROADCAST, ((2, 3), 1.5), ((0,), 2)),
    *_cases(
        "div",
        ((2, 3), _positive(2, 3)),
        ((2, 1), _positive(3)),
        ((3,), _positive(2, 3)),
        ((), _positive(2)),
        ((0, 2), _positive(2)),
        ((3,), 2),
        ((3,), _positive()),
    ),
    *_cases("div", ((2,),), call=lambda o, x: 2.0 / (x + 5)),
    *_cases("sub", ((2,),), call=lambda o, x: 3 - x),
    *_cases(
        "pow",
        (_positive(2, 3), (2, 3)),
        (_positive(3), (2, 1)),
        ((2, 3), 2),
        ((2, 3), 3.0),
        (_positive(3), -0.5),
        (2.0, (2, 3)),
        (3, (2,)),
        ((4,), 0),
        ((4,), 1),
        (_positive(2, 2), (2,)),
        ((0,), 2),
        (_positive(3), fixed([2.0, 0.0, -1.0])),
    ),
    *_cases(
        "pow",
        (np.array([0.0, 0.0, 0.0, -2.0]), np.array([0.0, 2.0, 1.0, 3.0])),
        (np.array([0.0, -1.0]), 2),
        (0.0, np.array([0.0, 1.0, 2.0])),
        (np.array([0.0, 1.0]), 0.0),
        smooth=False,
    ),
    *_cases("neg", ((2, 3),), ((),), ((0, 2),)),
    *_cases("abs", ((2, 3),), (_transposed(2, 3),)),
    *_cases("abs", (np.array([0.0, -1.0, 2.0]),), smooth=False),
    *_cases("square", ((2, 3),), ((),), ((0,),)),
    *_cases("exp", ((2, 3),), ((),), ((0,),)),
    *_cases("log", (_positive(2, 3),), (_positive(),)),
    *_cases("log", (np.array([0.0, -1.0, 1.0]),), smooth=False),
    *_cases("log1p", (_positive(2, 3) - 1,), (np.array([1e-9, 0.0]),)),
    *_cases("sqrt", (_positive(2, 3),), (_positive(),)),
    *_cases("sqrt", (np.array([0.0, -1.0, 4.0]),), smooth=False),
    *_cases("sin", ((2, 3),)),
    *_cases("cos", ((2, 3),)),
    *_cases("sign", ((2, 3),)),
    *_cases("sign", (np.array([0.0, -1.0, 2.0]),), smooth=False),
    *_cases("maximum", ((2, 3), (2, 3)), ((2, 1, 3), (4, 1)), ((), (2,)), ((0, 3), (1, 3))),
    *_cases("minimum", ((2, 3), (2, 3)), ((2, 1, 3), (4, 1)), ((2,), ()), ((0, 3), (1, 3))),
    *_cases("maximum", (np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 3.0])), smooth=False),
    *_cases("minimum", (np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 3.0])), smooth=False),
    *_cases(
        "clamp",
        ([(3, 4)], {"min": -0.5}),
        ([(3, 4)], {"max": 0.5}),
        ([(3, 4)], {"min": -0.3, "max": 0.4}),
        ([()], {"min": 0}),
    ),
    *_cases("clamp", ([np.array([-1.0, 0.0, 1.0, 2.0])], {"min": -1, "max": 1}), smooth=False),
    *_cases(
        "where",
        (fixed([[True], [False]]), (2, 3), (3,)),
        (fixed(True), (2,), ()),
        (fixed([True, False, True]), (2, 3), 0.0),
        (fixed(np.zeros((0, 2), bool)), (2,), (1,)),
        (fixed([True, False]), 1.5, (2,)),
    ),
]

_TIES = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 2.0]])
_COMPARED = [
    *[
        case
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
        for case in _cases(
            name, (_TIES, 2.0), (_TIES, 2), (_TIES, _TIES.T[:1, :1]), (fixed([1, 2, 3]), fixed([3, 2, 1])), ((0,), 1)
        )
    ],
    *[
        case
        for name in ("logical_and", "logical_or")
        for case in _cases(
            name, (fixed([True, False, True]), fixed([[True], [False]])), (fixed([1, 0, 2]), fixed([0, 0, 1]))
        )
    ],
    *[
        case
        for name in ("bitwise_and", "bitwise_or", "bitwise_xor")
        for case in _cases(
            name,
            (fixed([True, False, True]), fixed([[True], [False]])),
            (fixed([6, 3, 0]), fixed([3, -1, 5])),
            (fixed([6, 3]), 1),
        )
    ],
    *_cases("bitwise_not", (fixed([True, False]),), (fixed([5, -1]),)),
    *_cases("logical_not", (fixed([True, False]),), (np.array([0.0, 1.5]),)),
    *_cases("isnan", (np.array([1.0, NAN, INF]),), (fixed([1, 2]),)),
    *_cases("isfinite", (np.array([1.0, NAN, INF, -INF]),), ((0,),)),
]

_ACTIVATIONS = [
    *_cases("relu", ((2, 3),), (_transposed(2, 3, 4),), ((0, 2),), ((),)),
    *_cases("relu", (np.array([0.0, -1.0, 2.0]),), smooth=False),
    *_cases("tanh", ((2, 3),), ((),), ((0,),)),
    *_cases("sigmoid", ((2, 3),), (np.array([-800.0, -30.0, 0.0, 30.0, 800.0]),)),
    *_cases("gelu", (np.linspace(-6, 6, 25),), ((0, 3),), ([(2, 3)], {"approximate": "tanh"}), (_transposed(3, 2),)),
    *[
        case
        for name in ("softmax", "log_softmax")
        for case in _cases(
            name,
            ([(2, 3)], {"dim": 1}),
            ([(2, 3, 4)], {"dim": -2}),
            ([()], {"dim": 0}),
            ([(0, 3)], {"dim": 1}),
            ([(3, 0)], {"dim": 0}),
            ([_transposed(3, 4)], {"dim": 0}),
            ([np.array([1e4, 0.0, -1e4])], {"dim": -1}),
            ([(1, 1)], {"dim": 1}),
        )
    ],
    *_cases("softmax", ([np.array([[0.0, -INF, 1.0]])], {"dim": 1}), smooth=False),
]

_PRODUCTS = [
    *_cases(
        "linear",
        ((2, 3), (4, 3), (4,)),
        ((2, 3), (4, 3)),
        ((3,), (4, 3), (4,)),
        ((2, 5, 3), (4, 3), (4,)),
        ((0, 3), (4, 3), (4,)),
        ((2, 0), (4, 0), (4,)),
        (_transposed(2, 3), _transposed(4, 3), (4,)),
        ((2, 2, 2, 3), (1, 3), (1,)),
        ((1, 1), (1, 1), (1,)),
    ),
    *_cases(
        "matmul",
        ((2, 3), (3, 4)),
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((3,), (5, 3, 2)),
        ((5, 2, 3), (3,)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
        ((1, 2, 3), (4, 3, 2)),
        ((0, 2, 3), (3, 2)),
        (_transposed(2, 3), _transposed(3, 4)),
        ((2, 1, 3), (2, 3, 1)),
    ),
]

_SEEN = np.random.default_rng(4).random((2, 1, 3, 5)) < 0.5
_SEEN[..., 0] = True
_BLIND = _SEEN.copy()
_BLIND[0, 0, 1] = False  # a query that sees no key
_ATTENTION = _cases(
    "scaled_dot_product_attention",
    ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6)),
    ([(2, 2, 5, 4), (2, 2, 5, 4), (2, 2, 5, 4)], {"is_causal": True}),
    ([(2, 3, 4), (2, 5, 4), (2, 5, 2)], {"is_causal": True, "scale": 0.7}),
    ([(5, 4), (3, 4), (3, 2)], {"is_causal": True}),
    ([(2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6)], {"scale": -2.0}),
    ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6), fixed(_SEEN)),
    ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6), fixed(_BLIND)),
    ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6), (2, 1, 3, 5)),
    ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6), fixed(_rng.standard_normal((3, 5)))),
    ((2, 1, 3, 4), (2, 5, 4), (3, 1, 1, 5, 2), (2, 1, 5)),
    ([_transposed(2, 3, 3, 4), _transposed(2, 3, 3, 4), _transposed(2, 3, 3, 4)], {"is_causal": True}),
    ((0, 2, 3, 4), (0, 2, 5, 4), (0, 2, 5, 6)),
    ((2, 0, 4), (2, 5, 4), (2, 5, 6)),
    ((1, 1), (1, 1), (1, 1)),
)

_IMAGES = [
    *_cases(
        "conv2d",
        ((2, 3, 5, 6), (4, 3, 3, 3), (4,)),
        ((2, 3, 5, 6), (4, 3, 1, 1)),
        ((3, 5, 6), (4, 3, 3, 2), (4,)),
        ((0, 3, 5, 6), (4, 3, 3, 3), (4,)),
        ((1, 1, 1, 1), (1, 1, 1, 1), (1,)),
        (_transposed(2, 3, 5, 4), _transposed(2, 3, 2, 3), (2,)),
        ([(2, 3, 6, 7), (4, 3, 3, 2), (4,)], {"stride": 2, "padding": 1}),
        ([(2, 3, 7, 6), (4, 3, 2, 3)], {"stride": (3, 1), "padding": (0, 2)}),
        ([(1, 2, 8, 7), (2, 2, 3, 2), (2,)], {"dilation": (2, 3), "padding": (1, 0)}),
        ([(2, 4, 5, 5), (6, 2, 3, 3), (6,)], {"groups": 2, "padding": 1}),
        ([(2, 3, 5, 5), (6, 1, 3, 2), (6,)], {"groups": 3, "stride": (1, 2), "dilation": (1, 2)}),
        ([(1, 4, 6, 5), (4, 1, 3, 3)], {"groups": 4, "padding": 2, "stride": 2, "dilation": 2}),
        ([(1, 2, 4, 5), (2, 2, 3, 3)], {"padding": "same"}),
        ([(1, 2, 4, 5), (2, 2, 3, 3)], {"padding": "valid"}),
        ([(1, 1, 3, 3), (2, 1, 1, 1)], {"stride": 3, "padding": 1}),
        ([(1, 1, 5, 5), (1, 1, 1, 1)], {"stride": 2}),
    ),
    *_cases(
        "max_pool2d",
        ([_distinct(2, 2, 4, 6)], {"kernel_size": 2}),
        ([_distinct(1, 2, 5, 7)], {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1)}),
        ([_distinct(2, 5, 5)], {"kernel_size": 2, "ceil_mode": True}),
        ([_distinct(1, 1, 7, 7)], {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True}),
        ([_distinct(1, 2, 7, 6)], {"kernel_size": 2, "dilation": (2, 3), "stride": 1}),
        ([_distinct(4, 4, 3, 2).T], {"kernel_size": 2}),
        ([(0, 2, 4, 4)], {"kernel_size": 2}),
        ([_distinct(1, 1, 1, 1)], {"kernel_size": 1}),
    ),
    *_cases(
        "max_pool2d",
        ([np.zeros((1, 2, 4, 4))], {"kernel_size": 3, "stride": 1, "padding": 1}),
        ([np.array([[[1.0, NAN, 2.0, 3.0], [NAN, 0.0, 5.0, 5.0]]])], {"kernel_size": 2}),
        ([np.full((1, 1, 2, 2), -INF)], {"kernel_size": 2}),
        ([_distinct(1, 1, 18, 18)], {"kernel_size": 17, "stride": 1}),  # more than 255 places in a window; slow
        smooth=False,
    ),
    *_cases(
        "avg_pool2d",
        ([(2, 2, 4, 6)], {"kernel_size": 2}),
        ([(1, 2, 5, 7)], {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1)}),
        ([(1, 2, 5, 7)], {"kernel_size": (3, 2), "stride": 2, "padding": 1, "count_include_pad": False}),
        ([(2, 5, 5)], {"kernel_size": 2, "ceil_mode": True}),
        ([(1, 1, 7, 7)], {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True}),
        ([(1, 1, 6, 7)], {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}),
        ([(1, 1, 5, 5)], {"kernel_size": 2, "divisor_override": 3}),
        ([_transposed(2, 2, 4, 4)], {"kernel_size": 2}),
        ([(0, 2, 4, 4)], {"kernel_size": 2}),
    ),
    *_cases(
        "adaptive_avg_pool2d",
        ((2, 2, 4, 6), [2, 3]),
        ((1, 2, 5, 7), [3, 4]),
        ((2, 5, 5), 1),
        ((2, 2, 3, 2), [5, 5]),
        ((1, 2, 5, 4), [None, 2]),
        ((0, 2, 4, 4), 1),
        (_transposed(1, 2, 4, 5), 2),
        ((1, 1, 4, 4), [1, 1]),
    ),
]


def _batch_norm(o: Any, x: Any, w: Any = None, b: Any = None, *, training: bool, **options: Any) -> Any:
    """With running statistics that are new for every call, as a training step changes them."""
    mean, var = o.full((x.shape[1],), 0.3, dtype=x.dtype), o.full((x.shape[1],), 1.7, dtype=x.dtype)
    return o.batch_norm(x, mean, var, w, b, training=training, **options)


def _sync_batch_norm(o: Any, x: Any, w: Any = None, b: Any = None) -> Any:
    """Of a batch in one part; of several in tests/parallel."""
    mean, var = o.full((x.shape[1],), 0.3, dtype=x.dtype), o.full((x.shape[1],), 1.7, dtype=x.dtype)
    if hasattr(o, "sync_batch_norm"):
        return o.sync_batch_norm(x, w, b, mean, var, momentum=0.1, eps=1e-5, gather=lambda row: row[None])
    return o.batch_norm(x, mean, var, w, b, training=True)


_NORMS = [
    *_cases(
        "batch_norm",
        ([(4, 3), (3,), (3,)], {"training": True}),
        ([(4, 3), (3,), (3,)], {"training": False}),
        ([(4, 3)], {"training": True}),
        ([(2, 3, 5), (3,), (3,)], {"training": True, "eps": 1e-3}),
        ([(2, 3, 2, 3), (3,), (3,)], {"training": True, "momentum": 0.5}),
        ([(2, 3, 2, 3), (3,), (3,)], {"training": False}),
        ([_transposed(2, 3, 4, 2), (3,), (3,)], {"training": True}),
        ([(0, 3, 2, 2), (3,), (3,)], {"training": False}),
        ([(2, 1, 1, 1)], {"training": True}),
        ([(1, 2, 2, 2), (2,)], {"training": False}),
        call=_batch_norm,
    ),
    *_cases("batch_norm", ([(3, 2, 2), (2,), (2,)], {"training": True}),
            call=lambda o, x, w, b, **kw: o.batch_norm(x, None, None, w, b, **kw)),
    *_cases("sync_batch_norm", ((4, 3), (3,), (3,)), ((2, 3, 2, 3), (3,)), (_transposed(2, 3, 4, 2),),
            call=_sync_batch_norm),
    *_cases(
        "layer_norm",
        ((2, 3, 4), [4], (4,), (4,)),
        ((2, 3, 4), [3, 4], (3, 4), (3, 4)),
        ((4,), [4], (4,), (4,)),
        ((2, 4), [4]),
        ((2, 4), [4], (4,)),
        ((0, 4), [4], (4,), (4,)),
        ((3, 1), [1], (1,), (1,)),
        (_transposed(3, 4), [4], (4,), (4,)),
        ([(2, 4), [4]], {"eps": 0.1}),
    ),
    *_cases(
        "rms_norm",
        ((2, 3, 4), [4], (4,)),
        ((2, 3, 4), [3, 4], (3, 4)),
        ((4,), [4], (4,)),
        ((2, 4), [4]),
        ((0, 4), [4], (4,)),
        (_transposed(3, 4), [4], (4,)),
        ([(2, 4), [4]], {"eps": 0.1}),
    ),
]  # fmt: skip

_PROBABILITIES = np.random.default_rng(3).dirichlet(np.ones(4), (3, 2))
_LOSSES = [
    *_cases("embedding", (fixed([[0, 2], [2, 1]]), (3, 4)), (fixed(1), (3, 4)), (fixed(np.zeros((0, 2), int)), (3, 4)),
            (fixed(np.array([1, 1], np.int32)), (2, 1))),
    *_cases("embedding", ([fixed([0, 2, 2, 1]), (3, 2)], {"padding_idx": 2}), smooth=False),
    *[
        case
        for reduction in ("mean", "sum", "none")
        for case in [
            *_cases(
                "cross_entropy",
                ([(3, 4), fixed([0, 3, 1])], {"reduction": reduction}),
                ([(3, 4), fixed([0, 3, 1]), fixed([0.5, 1.0, 2.0, 0.0])], {"reduction": reduction}),
                ([(3, 4), fixed([0, 3, 1])], {"reduction": reduction, "label_smoothing": 0.1}),
                ([(4, 4), fixed([0, 3, -100, 1])], {"reduction": reduction}),
                ([(4, 4), fixed([0, 2, 1, 2])], {"reduction": reduction, "ignore_index": 2}),
                ([(4, 3), fixed([0, 2, 7, 2]), fixed([0.5, 1.0, 2.0])],
                 {"reduction": reduction, "ignore_index": 7, "label_smoothing": 0.2}),
                ([(3, 4), fixed([0, -1, 1])], {"reduction": reduction, "ignore_index": -1, "label_smoothing": 0.3}),
                ([(2, 3, 4, 2), fixed(np.arange(16).reshape(2, 4, 2) % 3)], {"reduction": reduction}),
                ([(2, 3, 5), fixed(np.arange(10).reshape(2, 5) % 3), fixed([1.0, 2.0, 3.0])],
                 {"reduction": reduction, "label_smoothing": 0.1}),
                ([(4,), fixed(2)], {"reduction": reduction}),
                ([_transposed(3, 4), fixed([0, 3, 1])], {"reduction": reduction}),
                ([(3, 4), fixed(_PROBABILITIES[:, 0])], {"reduction": reduction}),
                ([(3, 4, 2), fixed(_PROBABILITIES.swapaxes(1, 2)), fixed([0.5, 1.0, 2.0, 0.1])],
                 {"reduction": reduction, "label_smoothing": 0.1}),
                ([(3, 4), (3, 4)], {"reduction": reduction, "label_smoothing": 0.1}),
                ([(1, 1), fixed([0])], {"reduction": reduction}),
                ([(0, 4), fixed(np.zeros(0, np.int64))], {"reduction": reduction}),
            ),
            *_cases("mse_loss", ([(2, 3), (2, 3)], {"reduction": reduction}), ([(), ()], {"reduction": reduction}),
                    ([(0, 2), (0, 2)], {"reduction": reduction})),
            *_cases(
                "binary_cross_entropy_with_logits",
                ([(2, 3), fixed(_PROBABILITIES[:2, 0, :3])], {"reduction": reduction}),
                ([(2, 3), (2, 3)], {"reduction": reduction}),
                ([(2, 3), fixed(_PROBABILITIES[:2, 0, :3]), fixed([1.0, 2.0, 0.0])], {"reduction": reduction}),
                ([(0, 3), fixed(np.zeros((0, 3)))], {"reduction": reduction}),
                ([np.array([-800.0, -20.0, 20.0, 800.0]), fixed([1.0, 0.0, 1.0, 0.0])], {"reduction": reduction}),
            ),
            *_cases(
                "binary_cross_entropy_with_logits",
                ([(2, 3), fixed(_PROBABILITIES[:2, 0, :3]), fixed([1.0, 2.0, 0.5])], {"reduction": reduction}),
                ([(2, 3), (2, 3), fixed([1.0, 2.0, 0.5])], {"reduction": reduction}),
                call=lambda o, x, t, p, **kw: o.binary_cross_entropy_with_logits(x, t, pos_weight=p, **kw),
            ),
        ]
    ],
    *_cases("cross_entropy", ([(2, 3), fixed([-100, -100])], {"reduction": "mean"}), smooth=False),
    *_cases("cross_entropy", ([np.array([[1e4, 0.0], [-1e4, 0.0]]), fixed([1, 0])], {}), smooth=False),
]  # fmt: skip

_SHAPES = [
    *_cases(
        "reshape",
        ((2, 6), [3, 4]),
        ((2, 6), [-1, 3]),
        ((0, 3), [-1, 3]),
        ((), [1, 1]),
        ((2, 3), [-1]),
        ((0, 3), [0, 5]),
        (_transposed(2, 6), [3, 4]),
        ((1,), []),
    ),
    *_cases("view", ((2, 6),), call=lambda o, x: x.view(3, -1)),
    *_cases(
        "flatten",
        ((2, 3, 4),),
        ([(2, 3, 4)], {"start_dim": 1}),
        ([(2, 3, 4)], {"start_dim": 0, "end_dim": -2}),
        ((),),
        ([(0, 3, 4)], {"start_dim": 1}),
        ([(2, 3)], {"start_dim": 1, "end_dim": 1}),
        (_transposed(2, 3),),
    ),
    *_cases("permute", ((2, 3, 4), [2, 0, 1]), ((2, 3, 4), [-1, 0, 1]), ((), [])),
    *_cases("transpose", ((2, 3, 4), 0, -1), ((2, 3), -2, 1), ((0, 3), 0, 1)),
    *_cases(
        "squeeze",
        ((1, 2, 1, 3),),
        ((1, 2, 1), 0),
        ((1, 2, 1), 1),
        ((1, 2, 1), -1),
        ([(1, 2, 1)], {"dim": (0, 2)}),
        ((),),
        ((1, 1),),
    ),
    *_cases("unsqueeze", ((2, 3), 0), ((2, 3), -1), ((2, 3), 1), ((), 0), ((0,), -2)),
    *_cases("broadcast_to", ((3,), [2, 3]), ((1, 3), [4, 3]), ((), [2]), ((2, 1), [0, 2, 3]), ((2, 3), [2, 3])),
    *_cases("expand", ((2, 1),), call=lambda o, x: x.expand(4, -1, 3)),
    *_cases("clone", ((2, 3),), (_transposed(2, 3),)),
    *_cases("contiguous", (_transposed(2, 3),), ((),), call=lambda o, x: x.contiguous()),
    *_cases("index", ((3, 4),), call=lambda o, x: x[1]),
    *_cases("index", ((3, 4),), call=lambda o, x: (x[-1, 2], x[:, 1:3], x[::2, None], x[..., -1], x[1:1], x[()])),
    *_cases("index", ((3, 4), fixed([2, 0, 2])), call=lambda o, x, k: (x[k], x[:, k], x[k, k], x[1, k])),
    *_cases("index", ((3, 4), fixed([True, False, True])), call=lambda o, x, k: (x[k], x[x > 0], x[k, 1])),
    *_cases(
        "index",
        ((3, 4), fixed([[0, 1], [1, 1]])),
        call=lambda o, x, k: (x[k], x[:, k], x[[0, 2, 0]], x[[0, 1], [1, 1]]),
    ),
    *_cases("narrow", ((3, 4), 1, 1, 2), ((3, 4), -2, 0, 3), ((3,), 0, 2, 0)),
    *[
        case
        for name in ("cat", "concat")
        for case in _cases(
            name,
            ([(2, 3), (1, 3)], {"dim": 0}),
            ([(2, 1), (2, 2), (2, 0)], {"dim": -1}),
            ([(2, 3)], {}),
            ([(0, 3), (2, 3)], {}),
            call=lambda o, *x, name=name, **kw: getattr(o, name)(x, **kw),
        )
    ],
    *_cases(
        "stack",
        ([(2, 3), (2, 3)], {"dim": 0}),
        ([(2, 3), (2, 3)], {"dim": -1}),
        ([(), ()], {}),
        ([(0, 2), (0, 2)], {"dim": 1}),
        call=lambda o, *x, **kw: o.stack(x, **kw),
    ),
    *_cases("split", ((5, 3), 2), ((5, 3), [1, 0, 4]), ([(2, 6), 3], {"dim": -1}), ((0, 3), 2)),
    *_cases("chunk", ((5, 3), 2), ((5, 3), 4), ([(2, 6), 3], {"dim": 1}), ((2, 2), 5)),
    *_cases("unbind", ((2, 3),), ([(2, 3)], {"dim": -1}), ((3,),)),
    *_cases("unbind", ((3, 2),), call=lambda o, x: x.unbind()[1]),
]

_REDUCTIONS = [
    *[
        case
        for name in ("sum", "mean", "var", "std")
        for case in _cases(
            name,
            ((2, 3),),
            ([(2, 3, 4)], {"dim": 1}),
            ([(2, 3, 4)], {"dim": (0, -1)}),
            ([(2, 3, 4)], {"dim": -1, "keepdim": True}),
            ([(0, 3)], {"dim": 1}),
            ([(2, 3)], {"dim": (0, 1), "keepdim": True}),
            (_transposed(2, 3, 4),),
        )
    ],
    *_cases("sum", ((),), ((0,),), ([(0, 3)], {"dim": 0}), ([()], {"dim": 0})),
    *_cases("mean", ((),), ((0,),), ([(0, 3)], {"dim": 0}), ([()], {"dim": -1})),
    *_cases(
        "var",
        ([(5,)], {"correction": 0}),
        ([(4, 3)], {"dim": 0, "correction": 2}),
        ([(4, 3)], {"dim": 0, "unbiased": False}),
    ),
    *_cases("std", ([(5,)], {"correction": 0}), ([(4, 3)], {"dim": 0, "unbiased": False, "keepdim": True})),
    *[
        case
        for name in ("amax", "amin")
        for case in _cases(
            name,
            ((2, 3),),
            ([(2, 3, 4)], {"dim": 1}),
            ([(2, 3, 4)], {"dim": (0, -1)}),
            ([(2, 3)], {"dim": -1, "keepdim": True}),
            ((),),
            ([(0, 3)], {"dim": 1}),
            (_transposed(2, 3),),
        )
    ],
    *_cases("amax", (_TIES,), ([_TIES], {"dim": 1}), smooth=False),
    *_cases("amin", (_TIES,), ([_TIES], {"dim": 1, "keepdim": True}), smooth=False),
    *[
        case
        for name in ("max", "min")
        for case in [
            *_cases(
                name,
                ((2, 3),),
                ([(2, 3)], {"dim": 1}),
                ([(2, 3, 4)], {"dim": -2, "keepdim": True}),
                ((2, 3), (3,)),
                ((),),
                ([(0, 3)], {"dim": 1}),
                ([()], {"dim": 0}),
            ),
            *_cases(name, (_TIES,), smooth=False),
        ]
    ],
    *[
        case
        for name in ("argmax", "argmin")
        for case in _cases(name, ((2, 3),), ([(2, 3)], {"dim": 1}), ([(2, 3)], {"dim": -2, "keepdim": True}), ((),))
    ],
    *[
        case
        for name in ("all", "any")
        for case in _cases(
            name,
            (fixed([[True, False], [True, True]]),),
            ([fixed([[True, False], [True, True]])], {"dim": 0}),
            ([fixed([[0, 2], [1, 1]])], {"dim": 1, "keepdim": True}),
            (np.zeros((0, 2)),),
        )
    ],
    *_cases(
        "logsumexp",
        ([(2, 3)], {"dim": 1}),
        ([(2, 3, 4)], {"dim": (0, 2)}),
        ([(2, 3)], {"dim": -1, "keepdim": True}),
        ([np.array([100.0, 100.0])], {"dim": 0}),
        ([()], {"dim": 0}),
    ),
    *_cases("logsumexp", ([np.array([[-INF, 0.0], [-INF, 1.0]])], {"dim": 1}), smooth=False),
]

CASES: list[Case] = [
    *_ARITHMETIC, *_COMPARED, *_ACTIVATIONS, *_PRODUCTS, *_ATTENTION, *_IMAGES, *_NORMS, *_LOSSES, *_SHAPES,
    *_REDUCTIONS,
]  # fmt: skip
