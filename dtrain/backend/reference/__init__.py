"""Every hand-made kernel in plain NumPy: the specification, and the oracle of all tests.

Images are (N, C, H, W) to the caller, or have one or three sizes. Inside they are handled channels last, (N, H, W, C),
because then a patch of an image is a few long runs of memory and a convolution one matrix product; results
are returned as views of such arrays in PyTorch's shape, so the next kernel finds its layout without
a copy. Sums over many rows are matrix products with ones: BLAS does them fastest.
"""

from dtrain.backend.reference.bessel import bessel_ie
from dtrain.backend.reference.blockwise_attention import attention, attention_grad
from dtrain.backend.reference.conv import (
    channel_sums,
    convolution,
    convolution_data_grad,
    convolution_weight_grad,
)
from dtrain.backend.reference.ctc import ctc, ctc_grad
from dtrain.backend.reference.elementwise import add, each_element, erf, gelu, gelu_grad, relu, relu_grad
from dtrain.backend.reference.error_function import erfc, erfcx, erfinv, log_ndtr, ndtri
from dtrain.backend.reference.gamma import digamma, lgamma, polygamma, zeta
from dtrain.backend.reference.logits import (
    cross_entropy,
    cross_entropy_grad,
    log_softmax,
    log_softmax_grad,
    softmax,
    softmax_grad,
)
from dtrain.backend.reference.norm import (
    batch_norm,
    batch_norm_grad,
    batch_norm_grad_sums,
    batch_norm_stats,
    layer_norm,
    layer_norm_grad,
)
from dtrain.backend.reference.pooling import (
    adaptive_avg_pool,
    adaptive_avg_pool_grad,
    avg_pool,
    avg_pool_grad,
    max_places,
    max_pool,
    max_pool_grad,
)
from dtrain.backend.reference.product import column_sums, linear, matmul, square_sum
from dtrain.backend.reference.recurrent import gru, gru_grad, lstm, lstm_grad, rnn, rnn_grad
from dtrain.backend.reference.table import add_at, dropout_mask, embedding_grad

__all__ = [
    "adaptive_avg_pool",
    "adaptive_avg_pool_grad",
    "add",
    "add_at",
    "attention",
    "attention_grad",
    "avg_pool",
    "avg_pool_grad",
    "batch_norm",
    "batch_norm_grad",
    "batch_norm_grad_sums",
    "batch_norm_stats",
    "bessel_ie",
    "channel_sums",
    "column_sums",
    "convolution",
    "convolution_data_grad",
    "convolution_weight_grad",
    "cross_entropy",
    "cross_entropy_grad",
    "ctc",
    "ctc_grad",
    "digamma",
    "dropout_mask",
    "embedding_grad",
    "each_element",
    "erf",
    "erfc",
    "erfcx",
    "erfinv",
    "gelu",
    "gelu_grad",
    "gru",
    "gru_grad",
    "layer_norm",
    "layer_norm_grad",
    "lgamma",
    "log_ndtr",
    "linear",
    "log_softmax",
    "log_softmax_grad",
    "lstm",
    "lstm_grad",
    "matmul",
    "max_places",
    "max_pool",
    "max_pool_grad",
    "ndtri",
    "polygamma",
    "relu",
    "relu_grad",
    "rnn",
    "rnn_grad",
    "softmax",
    "softmax_grad",
    "square_sum",
    "zeta",
]
