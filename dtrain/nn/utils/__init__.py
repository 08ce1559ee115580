"""PyTorch's `torch.nn.utils`: clipping of gradients, and batches of sequences of several lengths.

May import what `dtrain.nn` may, and its modules.
"""

from dtrain.nn.utils import rnn
from dtrain.nn.utils.clip import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "rnn"]
