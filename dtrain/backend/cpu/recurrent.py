"""Recurrent layers with oneDNN's products of matrices."""

from __future__ import annotations

from functools import partial

from dtrain.backend.cpu.product import dot
from dtrain.backend.reference import recurrent as reference

__all__ = ["gru", "gru_grad", "lstm", "lstm_grad", "rnn", "rnn_grad"]

gru, gru_grad = partial(reference.gru, dot=dot), partial(reference.gru_grad, dot=dot)
lstm, lstm_grad = partial(reference.lstm, dot=dot), partial(reference.lstm_grad, dot=dot)
rnn, rnn_grad = partial(reference.rnn, dot=dot), partial(reference.rnn_grad, dot=dot)
