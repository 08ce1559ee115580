"""Training steps a second on the GPU, beside PyTorch's, eager and compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

import dtrain
from dtrain import nn, optim
from dtrain.nn import functional

__all__ = ["WORKLOADS", "steps_per_second"]


@dataclass(frozen=True)
class Workload:
    """A model, what it is given, and how many multiplications and additions a training step has.

    make: gets the library's `nn`, and the name of the library's module of vision models. tokens: inputs are numbers
    below so many, else images or vectors; classes: of the labels. mixed: with autocast in bfloat16.
    """

    make: Callable[[Any, str], Any]
    shape: tuple[int, ...]
    classes: int
    flops: float
    mixed: bool = False
    tokens: int = 0


def _mlp(module: Any, models: str) -> Any:
    first, second, last = module.Linear(784, 1024), module.Linear(1024, 1024), module.Linear(1024, 10)
    return module.Sequential(first, module.ReLU(), second, module.ReLU(), last)


def _gpt(module: Any, models: str) -> Any:
    """GPT-2's sizes (Radford et al., 2019) of layers that both libraries have: 12 of 768, 12 heads."""

    class GPT(module.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = module.Embedding(50257, 768), module.Embedding(1024, 768)
            self.layers = module.ModuleList(
                module.TransformerEncoderLayer(
                    768, 12, 3072, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(12)
            )
            self.norm, self.head = module.LayerNorm(768), module.Linear(768, 50257, bias=False)
            self.head.weight = self.token.weight

        def forward(self, x: Any, places: Any, mask: Any) -> Any:
            y = self.token(x) + self.place(places)
            for layer in self.layers:
                y = layer(y, src_mask=mask, is_causal=True)
            return self.head(self.norm(y)).flatten(0, 1)

    return GPT()


# 6 flops a parameter and token (forward, and twice that backward), and those of attention; images by their own layers.
_GPT_FLOPS = 8 * 1024 * (6 * 123.6e6 + 6 * 12 * 768 * 1024)
WORKLOADS: dict[str, Workload] = {
    "mlp": Workload(_mlp, (256, 784), 10, 6 * 256 * (784 * 1024 + 1024 * 1024 + 1024 * 10)),
    "resnet18": Workload(
        lambda module, models: import_module(models).resnet18(num_classes=10), (256, 3, 32, 32), 10, 6 * 256 * 37e6
    ),
    "resnet50": Workload(
        lambda module, models: import_module(models).resnet50(), (64, 3, 224, 224), 1000, 6 * 64 * 4.09e9, mixed=True
    ),
    "gpt": Workload(_gpt, (8, 1024), 50257, _GPT_FLOPS, mixed=True, tokens=50257),
}


def steps_per_second(name: str, library: str, seconds: float = 4.0) -> float:
    """Of training steps (SGD with momentum) on batches that lie on the GPU.

    library: "dtrain", "graph" (the same, captured), "torch" or "compiled".
    """
    work = WORKLOADS[name]
    rng = np.random.default_rng(0)
    x = rng.integers(0, work.tokens, work.shape) if work.tokens else rng.standard_normal(work.shape).astype(np.float32)
    y = rng.integers(0, work.classes, work.shape[: 2 if work.tokens else 1]).reshape(-1)
    if library in ("dtrain", "graph"):
        module: Any = dtrain
        model = work.make(nn, "dtrain.models").to("cuda")
        optimizer: Any = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        loss_of: Any = functional.cross_entropy
        wait: Callable[[], Any] = dtrain.cuda.synchronize
    else:
        module = import_module("torch")
        model = work.make(module.nn, "torchvision.models").cuda()
        optimizer = module.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        loss_of, wait = module.nn.functional.cross_entropy, module.cuda.synchronize
        if library == "compiled":
            model = module.compile(model)
    given = [module.tensor(x, device="cuda")]
    if work.tokens:
        n = work.shape[1]
        hidden = module.tensor(np.triu(np.full((n, n), -np.inf, np.float32), 1), device="cuda")
        given += [module.arange(n, device="cuda"), hidden]
    labels = module.tensor(y, device="cuda")

    def step() -> None:
        with module.autocast("cuda", module.bfloat16, enabled=work.mixed):
            loss = loss_of(model(*given), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    run: Any = step
    if library == "graph":
        run = dtrain.cuda.capture(step)
    for _ in range(5):
        run()
    if library == "graph" and run.reason is not None:
        raise RuntimeError(f"not captured: {run.reason}")
    wait()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(3):
            run()
        wait()
        done += 3
    return done / (time.perf_counter() - start)
