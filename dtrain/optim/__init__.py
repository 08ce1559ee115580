"""Optimizers and schedules, under PyTorch's names.

May import `dtrain.nn` and what is below. Read `optimizer.py` (the loop over flat buffers), then
`sgd.py`: an optimizer is its options, the names of its state arrays, and one `update`. Clipping is
in `dtrain.nn.utils`, as in PyTorch.
"""

from dtrain.optim import lr_scheduler, swa_utils
from dtrain.optim.adadelta import Adadelta
from dtrain.optim.adafactor import Adafactor
from dtrain.optim.adagrad import Adagrad
from dtrain.optim.adam import Adam, AdamW
from dtrain.optim.adamax import Adamax
from dtrain.optim.asgd import ASGD
from dtrain.optim.lamb import LAMB
from dtrain.optim.lars import LARS
from dtrain.optim.lbfgs import LBFGS
from dtrain.optim.muon import Muon
from dtrain.optim.nadam import NAdam
from dtrain.optim.optimizer import Optimizer
from dtrain.optim.radam import RAdam
from dtrain.optim.rmsprop import RMSprop
from dtrain.optim.rprop import Rprop
from dtrain.optim.sgd import SGD

__all__ = [
    "ASGD", "LAMB", "LARS", "LBFGS", "SGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon",
    "NAdam", "Optimizer", "RAdam", "RMSprop", "Rprop", "lr_scheduler", "swa_utils",
]  # fmt: skip
