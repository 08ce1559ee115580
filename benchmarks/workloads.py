"""The models, batches and optimizers of the benchmarks, written once for PyTorch and dtrain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["WORKLOADS", "Workload"]


def mlp(nn: Any, *sizes: int) -> Any:
    layers: list[Any] = []
    for i, o in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(nn: Any) -> Any:
    """The size of examples/train.py."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def resnet18(nn: Any) -> Any:
    """ResNet-18 (He et al., arXiv:1512.03385) for images of 32 x 32: a 3 x 3 stem, no max pool; 11.2 M parameters."""

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.shortcut = nn.Identity()
            if stride > 1 or inputs != outputs:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: Any) -> Any:
            relu = nn.functional.relu
            y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
            return relu(y + self.shortcut(x))

    blocks = [
        block
        for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        for block in (Block(inputs, outputs, stride), Block(outputs, outputs, 1))
    ]
    stem = (nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


VOCABULARY, CONTEXT = 96, 128


def gpt(nn: Any, width: int = 256, heads: int = 8, layers: int = 6) -> Any:
    """A decoder with normalisation before each part (GPT-2's arrangement), of characters; 4.8 M parameters."""

    class Layer(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def attention(self, x: Any) -> Any:
            n, t, _ = x.shape
            q, k, v = self.qkv(x).view(n, t, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind()
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(n, t, width))

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class GPT(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.characters, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
            self.layers = nn.ModuleList([Layer() for _ in range(layers)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

        def forward(self, x: Any) -> Any:
            x = self.characters(x) + self.places.weight
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x))

    return GPT()


def lstm(nn: Any, embedded: int = 128, hidden: int = 256) -> Any:
    """Two layers of LSTM over characters; 1.0 M parameters."""

    class CharLSTM(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.characters = nn.Embedding(VOCABULARY, embedded)
            self.lstm = nn.LSTM(embedded, hidden, 2, batch_first=True)
            self.head = nn.Linear(hidden, VOCABULARY)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(self.characters(x))[0])

    return CharLSTM()


@dataclass(frozen=True)
class Workload:
    """make(nn) -> model; shape: of a rank's batch; steps: how many make a measurement of a second or so.

    text: whether a batch is of characters with one to come for each, or else of images, each of one of 10 classes.
    bf16: whether matrix products and convolutions are in bfloat16, by `autocast`.
    """

    make: Callable[[Any], Any]
    shape: tuple[int, ...]
    steps: int
    text: bool = False
    bf16: bool = False

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y, the same in every process."""
        rng = np.random.Generator(np.random.Philox(key=1))
        if self.text:
            return rng.integers(0, VOCABULARY, self.shape), rng.integers(0, VOCABULARY, self.shape)
        return rng.standard_normal(self.shape, np.float32), rng.integers(0, 10, self.shape[0])

    def optimizer(self, optim: Any, parameters: Any, **options: Any) -> Any:
        """AdamW for text, SGD with momentum for images. options: of PyTorch's AdamW alone."""
        if self.text:
            return optim.AdamW(parameters, lr=1e-3, **options)
        return optim.SGD(parameters, lr=0.01, momentum=0.9)

    def loss(self, library: Any, model: Any, x: Any, y: Any) -> Any:
        """The mean cross-entropy over images, or over characters."""
        with library.autocast("cpu", library.bfloat16, enabled=self.bf16):
            scores, labels = model(x), y.reshape(-1)
            return library.nn.functional.cross_entropy(scores.reshape(len(labels), -1), labels)

    def stepper(
        self, library: Any, model: Any, memory_format: Any = None, capture: Any = None, **options: Any
    ) -> Callable[[], None]:
        """A function that makes one step: zero_grad, forward, cross-entropy, backward, the optimizer's step.

        memory_format: what PyTorch makes the batch's layout; options: of its optimizer. capture: dtrain's, of the step.
        """
        optimizer = self.optimizer(library.optim, model.parameters(), **options)
        x, y = map(library.from_numpy, self.batch())
        if memory_format is not None:
            x = x.to(memory_format=memory_format)

        def step(x: Any, y: Any) -> None:
            optimizer.zero_grad()
            self.loss(library, model, x, y).backward()
            optimizer.step()

        made = step if capture is None else capture(step)
        return lambda: made(x, y)


WORKLOADS = {
    "tiny": Workload(lambda nn: mlp(nn, 64, 32, 10), (32, 64), 500),
    "mlp": Workload(lambda nn: mlp(nn, 784, 512, 512, 10), (64, 784), 200),
    "cnn": Workload(cnn, (64, 1, 28, 28), 20),
    "resnet18": Workload(resnet18, (32, 3, 32, 32), 3),
    "gpt": Workload(gpt, (8, CONTEXT), 5, text=True),
    "lstm": Workload(lstm, (32, 64), 10, text=True),
}
WORKLOADS |= {f"{name}-bf16": replace(WORKLOADS[name], bf16=True) for name in ("resnet18", "gpt")}
