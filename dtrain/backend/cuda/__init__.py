"""Kernels for CuPy's arrays: the project's own CUDA C++ where there is one, else array code.

Imports `reference` only; `import dtrain` does not come here. The `.cu` files hold kernels, `loader.py` compiles them,
and beside each lies the Python module that starts them, under the names of `reference`, which says what each computes.
Names that are not here are the reference's own functions, which are array code that CuPy's arrays go through as
well; but `ON_HOST`, which cannot be written so: arrays come to the host for them, and results go back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from dtrain.backend import reference
from dtrain.backend.reference import *  # noqa: F403

# isort: split
from dtrain.backend.cuda.attention import attention, attention_grad  # noqa: F401
from dtrain.backend.cuda.elementwise import erf, gelu, gelu_grad, relu, relu_grad  # noqa: F401
from dtrain.backend.cuda.pooling import avg_pool, avg_pool_grad  # noqa: F401
from dtrain.backend.cuda.product import column_sums, linear, matmul  # noqa: F401
from dtrain.backend.cuda.rows import (  # noqa: F401
    cross_entropy,
    cross_entropy_grad,
    layer_norm,
    layer_norm_grad,
    log_softmax,
    softmax,
)
from dtrain.backend.cuda.table import add_at, embedding_grad  # noqa: F401

__all__ = [*reference.__all__, "ON_HOST"]

#: Rare functions, and what draws numbers.
ON_HOST = (
    "adaptive_avg_pool", "adaptive_avg_pool_grad", "bessel_ie", "ctc", "ctc_grad", "digamma", "dropout_mask", "erfc",
    "erfcx", "erfinv", "lgamma", "log_ndtr", "max_places", "ndtri", "polygamma", "zeta",
)  # fmt: skip


def _on_host(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(kernel)
    def call(*args: Any) -> Any:
        return _to_device(kernel(*map(_to_host, args)))

    return call


def _to_host(x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(map(_to_host, x))
    return x.get() if hasattr(x, "get") and hasattr(x, "dtype") else x


def _to_device(x: Any) -> Any:
    import cupy

    if isinstance(x, (tuple, list)):
        return type(x)(map(_to_device, x))
    return cupy.asarray(x) if isinstance(x, (np.ndarray, np.generic)) else x


for _name in ON_HOST:
    globals()[_name] = _on_host(getattr(reference, _name))
