"""PyTorch's `torch.nn.functional`: a view of `dtrain.ops`."""

from __future__ import annotations

from dtrain.autograd import Tensor
from dtrain.ops import norm
from dtrain.ops.activation import gelu, log_softmax, relu, sigmoid, softmax, tanh
from dtrain.ops.attention import scaled_dot_product_attention
from dtrain.ops.conv import conv2d
from dtrain.ops.dropout import dropout
from dtrain.ops.embedding import embedding
from dtrain.ops.linear import linear
from dtrain.ops.loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from dtrain.ops.multi_head_attention import multi_head_attention_forward
from dtrain.ops.norm import layer_norm
from dtrain.ops.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "multi_head_attention_forward",
    "relu",
    "scaled_dot_product_attention",
    "sigmoid",
    "softmax",
    "tanh",
]


def batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`dtrain.ops.norm.batch_norm` with its arguments in PyTorch's order."""
    return norm.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)
