"""Modules, layers, losses and initial values, under PyTorch's names.

May import `dtrain.ops` and what is below. Read `module.py` first; a new layer is a subclass of
Module with a `forward`. `functional.py` is a view of the ops. `flat.py` keeps parameters in one
piece of memory for optimizers and DistributedDataParallel.
"""

from dtrain.nn import functional, init, utils
from dtrain.nn.containers import ModuleDict, ModuleList, Sequential
from dtrain.nn.layers import Conv2d, Embedding, Linear
from dtrain.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from dtrain.nn.module import Module
from dtrain.nn.norm import BatchNorm1d, BatchNorm2d, LayerNorm, SyncBatchNorm
from dtrain.nn.parameter import Parameter
from dtrain.nn.stateless import (
    GELU,
    AdaptiveAvgPool2d,
    AvgPool2d,
    Dropout,
    Flatten,
    Identity,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "Identity",
    "LayerNorm",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "SyncBatchNorm",
    "Tanh",
    "functional",
    "init",
    "utils",
]
