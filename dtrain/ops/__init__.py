"""Functions of Tensors, each with its value and its gradient side by side.

May import `dtrain.autograd` and `dtrain.backend`. Read `arithmetic.py` first, then `linear.py` and
`conv.py`; a new op that needs no hand-made kernel is one function in one of these files, and an
entry in the table of tests/ops.
"""

from dtrain.ops import (
    activation,
    arithmetic,
    attention,
    conv,
    creation,
    dropout,
    embedding,
    linear,
    loss,
    methods,
    multi_head_attention,
    norm,
    packing,
    pooling,
    recorded,
    recurrent,
    reduction,
    shape,
)

__all__ = [
    "activation", "arithmetic", "attention", "conv", "creation", "dropout", "embedding", "linear", "loss", "methods",
    "multi_head_attention", "norm", "packing", "pooling", "recorded", "recurrent", "reduction", "shape",
]  # fmt: skip
