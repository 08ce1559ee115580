"""Modules, layers, losses and initial values, under PyTorch's names.

May import `dtrain.ops` and what is below. Read `module.py` first; a new layer is a subclass of
Module with a `forward`. `functional.py` is a view of the ops. `flat.py` keeps parameters in one
piece of memory for optimizers and DistributedDataParallel.
"""

from dtrain.nn import functional, init, utils
from dtrain.nn.activation import GELU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from dtrain.nn.attention import MultiheadAttention
from dtrain.nn.containers import ModuleDict, ModuleList, Sequential
from dtrain.nn.conv import Conv2d
from dtrain.nn.dropout import Dropout
from dtrain.nn.embedding import Embedding
from dtrain.nn.flatten import Flatten
from dtrain.nn.linear import Identity, Linear
from dtrain.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from dtrain.nn.module import Module
from dtrain.nn.norm import BatchNorm1d, BatchNorm2d, LayerNorm, SyncBatchNorm
from dtrain.nn.parameter import Buffer, Parameter
from dtrain.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from dtrain.nn.rnn import GRU, LSTM, RNN, RNNBase
from dtrain.nn.rnn_cells import GRUCell, LSTMCell, RNNCell, RNNCellBase
from dtrain.nn.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "Identity",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "RNNBase",
    "RNNCell",
    "RNNCellBase",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "SyncBatchNorm",
    "Tanh",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "functional",
    "init",
    "utils",
]
