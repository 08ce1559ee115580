"""One epoch of Fashion-MNIST: compression costs at most one point of accuracy."""

from __future__ import annotations

from typing import Any

import pytest
from threadpoolctl import threadpool_limits

import dtrain
from dtrain import data, nn, optim
from dtrain.comm import SingleCommunicator
from dtrain.nn import functional as F
from dtrain.parallel.hooks import ErrorFeedback, default_hooks, powerSGD_hook, quantization_hooks, topk_hook

HOOKS = {
    "fp16": (lambda: None, default_hooks.fp16_compress_hook),
    "bf16": (lambda: None, default_hooks.bf16_compress_hook),
    "int8": (lambda: None, quantization_hooks.quantization_perchannel_hook),
    "int8 with feedback": (ErrorFeedback, quantization_hooks.quantization_perchannel_hook),
    "topk": (topk_hook.TopKState, topk_hook.topk_hook),
    "PowerSGD": (lambda: powerSGD_hook.PowerSGDState(None, 4, start_powerSGD_iter=20), powerSGD_hook.powerSGD_hook),
}


@threadpool_limits.wrap(1)  # the products are small
def accuracy(hook: tuple[Any, Any] | None) -> float:
    """After one epoch of a multilayer perceptron, of 4 microbatches, on as many images as are there."""
    dtrain.manual_seed(0)
    train, test = data.FashionMNIST(train=True), data.FashionMNIST(train=False)
    # Of the subset within the package smaller batches, to have about as many steps.
    batch_size, lr = (256, 0.1) if len(train) == 60_000 else (32, 0.02)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    model = dtrain.DistributedDataParallel(net, SingleCommunicator(), 4)
    if hook is not None:
        model.register_comm_hook(hook[0](), hook[1])
    loader = data.DataLoader(train, batch_size, shuffle=True, microbatches=4)
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, loader.steps)
    for x, y in loader:
        F.cross_entropy(model(x), y).backward()
        if model.synchronized:
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.eval()
    with dtrain.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in data.DataLoader(test, 1000))
    return right / len(test)


@pytest.fixture(scope="module")
def uncompressed() -> float:
    found = accuracy(None)
    assert found > 0.8
    return found


@pytest.mark.parametrize("name", HOOKS)
def test_within_one_point(name: str, uncompressed: float) -> None:
    assert accuracy(HOOKS[name]) >= uncompressed - 0.01
