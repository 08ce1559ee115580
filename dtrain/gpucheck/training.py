"""Whole training steps on the GPU, against the same on the CPU; and whether two runs give the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import dtrain
from dtrain import nn, optim
from dtrain.nn import functional

__all__ = ["MODELS", "train"]


class _Sequences(nn.Module):
    """Tokens (N, T) -> scores of 5 classes, by a layer over sequences."""

    def __init__(self, layer: Any, width: int) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(20, 16), layer, nn.Linear(width, 5)

    def forward(self, x: Any) -> Any:
        y = self.layer(self.embedding(x))
        return self.head((y[0] if isinstance(y, tuple) else y).mean(1))


def _mlp() -> Any:
    return nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.LayerNorm(32), nn.Dropout(0.1), nn.Linear(32, 5))


def _cnn() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )  # fmt: skip


def _transformer() -> Any:
    return _Sequences(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.1), 16)


def _lstm() -> Any:
    return _Sequences(nn.LSTM(16, 8, 2, batch_first=True, bidirectional=True), 16)


def _vectors(rng: Any) -> Any:
    return rng.standard_normal((6, 12)).astype(np.float32)


def _images(rng: Any) -> Any:
    return rng.standard_normal((6, 3, 8, 8)).astype(np.float32)


def _tokens(rng: Any) -> Any:
    return rng.integers(0, 20, (6, 7))


#: Name: how the model is made, and how its inputs are drawn.
MODELS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "mlp": (_mlp, _vectors),
    "cnn": (_cnn, _images),
    "transformer": (_transformer, _tokens),
    "lstm": (_lstm, _tokens),
}


def train(
    name: str, device: str, steps: int = 3, mixed: bool = False, captured: bool = False
) -> tuple[list[float], list[np.ndarray], list[np.ndarray]]:
    """The losses of some steps of SGD with momentum, the parameters after them, and the first step's gradients.

    mixed: products in bfloat16. captured: as a CUDA graph.
    """
    make, draw = MODELS[name]
    dtrain.manual_seed(0)
    model = make().to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses: list[float] = []
    gradients: list[np.ndarray] = []

    def step(x: Any, y: Any) -> Any:
        with dtrain.autocast(device, dtrain.bfloat16, enabled=mixed):
            loss = functional.cross_entropy(model(x), y)
        loss.backward()
        if not losses and not captured:
            gradients.extend(p.grad.cpu().numpy().copy() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        return loss

    run = dtrain.cuda.capture(step) if captured else step
    for i in range(steps):
        rng = np.random.default_rng(i)
        x, y = dtrain.tensor(draw(rng), device=device), dtrain.tensor(rng.integers(0, 5, 6), device=device)
        losses.append(float(run(x, y)))
    return losses, [p.detach().cpu().numpy() for p in model.parameters()], gradients
