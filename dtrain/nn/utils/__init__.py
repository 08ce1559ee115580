"""PyTorch's `torch.nn.utils`: clipping of gradients, parameters that are computed, sequences of several lengths.

May import what `dtrain.nn` may, and its modules. `parametrize.py` is the general way to compute a parameter.
"""

from dtrain.nn.utils import parametrizations, parametrize, rnn, stateless
from dtrain.nn.utils.clip import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from dtrain.nn.utils.convert_parameters import parameters_to_vector, vector_to_parameters
from dtrain.nn.utils.spectral_norm import remove_spectral_norm, spectral_norm
from dtrain.nn.utils.weight_norm import remove_weight_norm, weight_norm

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "remove_spectral_norm",
    "remove_weight_norm",
    "rnn",
    "spectral_norm",
    "stateless",
    "vector_to_parameters",
    "weight_norm",
]
