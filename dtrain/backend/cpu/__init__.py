"""Faster kernels for NumPy arrays, laid over `reference`, which says what each computes and is what tests compare with.

Imports `reference` only. oneDNN does the work where `onednn.library()` finds it. A kernel
here hands to its twin in `reference` what oneDNN has no fast code for, so all of its arguments remain right.
Results differ from the reference's in the last bits, and as those do they depend on the number of threads; but
they are the same in every run.
"""

from dtrain.backend import reference
from dtrain.backend.reference import *  # noqa: F403

# isort: split
from dtrain.backend.cpu.attention import attention, attention_grad  # noqa: F401
from dtrain.backend.cpu.conv import convolution, convolution_data_grad, convolution_weight_grad  # noqa: F401
from dtrain.backend.cpu.elementwise import activation, add, gelu, gelu_grad, relu_grad  # noqa: F401
from dtrain.backend.cpu.fused import each_element  # noqa: F401
from dtrain.backend.cpu.norm import batch_norm, batch_norm_grad, layer_norm, layer_norm_grad  # noqa: F401
from dtrain.backend.cpu.onednn import library, version
from dtrain.backend.cpu.pooling import max_pool, max_pool_grad  # noqa: F401
from dtrain.backend.cpu.product import linear, matmul  # noqa: F401
from dtrain.backend.cpu.recurrent import gru, gru_grad, lstm, lstm_grad, rnn, rnn_grad  # noqa: F401
from dtrain.backend.cpu.softmax import softmax, softmax_grad  # noqa: F401

__all__ = [*reference.__all__, "available", "version"]


def available() -> bool:
    """Whether there is anything faster here than in `reference`."""
    return library() is not None
