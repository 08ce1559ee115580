"""Optimizers and schedules, under PyTorch's names.

May import `dtrain.nn` and what is below. Read `optimizer.py` (the loop over flat buffers), then
`sgd.py`: an optimizer is its options, the names of its state arrays, and one `update`. Clipping is
in `dtrain.nn.utils`, as in PyTorch.
"""

from dtrain.optim import lr_scheduler
from dtrain.optim.adam import Adam, AdamW
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.rmsprop import RMSprop
from dtrain.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "lr_scheduler"]
