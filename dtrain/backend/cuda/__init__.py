"""Kernels for CuPy's arrays: the project's own CUDA C++ where there is one, else array code.

Imports `reference` only; `import dtrain` does not come here. The `.cu` files hold kernels, `loader.py` compiles them,
and beside each lies the Python module that starts them, under the names of `reference`, which says what each computes.
Names that are not here are the reference's own functions, which are array code that CuPy's arrays go through as
well; but `ON_HOST`, which cannot be written so: arrays come to the host for them, and results go back.
"""

from __future__ import annotations

from dtrain.backend import reference
from dtrain.backend.reference import *  # noqa: F403

# isort: split
from dtrain.backend.cuda.attention import attention, attention_grad  # type: ignore[assignment]  # noqa: F401
from dtrain.backend.cuda.columns import (  # noqa: F401
    batch_norm,
    batch_norm_grad,
    batch_norm_grad_sums,
    batch_norm_stats,
    channel_sums,
    column_sums,
    square_sum,
)
from dtrain.backend.cuda.elementwise import add, erf, gelu, gelu_grad, relu, relu_grad  # noqa: F401
from dtrain.backend.cuda.fused import each_element  # noqa: F401
from dtrain.backend.cuda.host import on_host
from dtrain.backend.cuda.images import (  # noqa: F401
    adaptive_avg_pool,
    adaptive_avg_pool_grad,
    avg_pool,
    avg_pool_grad,
    convolution,
    convolution_data_grad,
    convolution_weight_grad,
    max_pool,
    max_pool_grad,
)
from dtrain.backend.cuda.product import linear, matmul  # noqa: F401
from dtrain.backend.cuda.random import dropout_mask  # noqa: F401
from dtrain.backend.cuda.rows import (  # noqa: F401
    cross_entropy,
    cross_entropy_grad,
    layer_norm,
    layer_norm_grad,
    log_softmax,
    log_softmax_grad,
    softmax,
    softmax_grad,
)
from dtrain.backend.cuda.table import add_at, embedding_grad  # noqa: F401

__all__ = [*reference.__all__, "ON_HOST"]

#: Rare functions, and what draws numbers.
ON_HOST = (
    "bessel_ie", "ctc", "ctc_grad", "digamma", "erfc",
    "erfcx", "erfinv", "lgamma", "log_ndtr", "max_places", "ndtri", "polygamma", "zeta",
)  # fmt: skip


for _name in ON_HOST:
    globals()[_name] = on_host(getattr(reference, _name))
