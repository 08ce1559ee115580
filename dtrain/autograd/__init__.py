"""Tensor, the rule by which ops are differentiated, the backward walk, gradient checks.

May import `dtrain.backend`. Read in this order: `tensor.py` (an array that knows where it came
from), `op.py` (how a function of arrays becomes a function of Tensors), `graph.py` (the walk).
"""

from dtrain.autograd import functional
from dtrain.autograd.check import check_grads, gradcheck, gradgradcheck
from dtrain.autograd.function import Function
from dtrain.autograd.graph import backward, grad
from dtrain.autograd.mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from dtrain.autograd.nested import map_tensors
from dtrain.autograd.op import Into, Joint, op
from dtrain.autograd.recorded import Recorded
from dtrain.autograd.tape import Tape, as_one_call, constant
from dtrain.autograd.tensor import Tensor, device
from dtrain.autograd.under_way import backward_root, on_backward_end
from dtrain.autograd.writes import mark_written

__all__ = [
    "Function",
    "Into",
    "Joint",
    "Recorded",
    "Tape",
    "Tensor",
    "as_one_call",
    "backward",
    "backward_root",
    "check_grads",
    "constant",
    "device",
    "enable_grad",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_grad_enabled",
    "map_tensors",
    "mark_written",
    "no_grad",
    "on_backward_end",
    "op",
    "set_grad_enabled",
]
