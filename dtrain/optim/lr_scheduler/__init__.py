"""Schedules of the learning rate, under PyTorch's names.

Read `schedule.py`, then `factors.py`: most schedules are a factor for each step.
"""

from dtrain.optim.lr_scheduler.cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from dtrain.optim.lr_scheduler.cyclic import CyclicLR
from dtrain.optim.lr_scheduler.factors import ConstantLR, ExponentialLR, LinearLR, MultiStepLR, PolynomialLR, StepLR
from dtrain.optim.lr_scheduler.functions import LambdaLR, MultiplicativeLR
from dtrain.optim.lr_scheduler.joined import ChainedScheduler, SequentialLR
from dtrain.optim.lr_scheduler.one_cycle import OneCycleLR
from dtrain.optim.lr_scheduler.plateau import ReduceLROnPlateau
from dtrain.optim.lr_scheduler.schedule import LRScheduler

__all__ = [
    "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR",
    "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR",
    "ReduceLROnPlateau", "SequentialLR", "StepLR",
]  # fmt: skip
