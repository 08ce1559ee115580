"""A small training run that has everything in it that could depend on the number of ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import dtrain
from dtrain import data, nn, optim
from dtrain.backend import cpu
from dtrain.comm import Communicator
from dtrain.nn import functional as F

__all__ = ["fingerprint", "make_net", "make_sync_net", "train", "train_with_one_thread"]


def make_net() -> nn.Module:
    """Convolution, BatchNorm (of images: a microbatch may have one sample) and Dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 5),
    )  # fmt: skip


def make_sync_net() -> nn.Module:
    """The same with two SyncBatchNorms."""
    net = make_net()
    net.insert(8, nn.BatchNorm1d(20))
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)


def train(
    comm: Communicator,
    microbatches: int,
    *,
    samples: int = 53,
    batch_size: int = 24,
    epochs: int = 2,
    wrap: Any = dtrain.DistributedDataParallel,
    make: Callable[[], nn.Module] = make_net,
    dtype: Any = np.float32,
    autocast: bool = False,
    device: str = "cpu",
    sharded: Any = None,
    **options: Any,
) -> tuple[str, list[float]]:
    """The fingerprint of the trained state, and the loss of every step (where the wrapper knows it)."""
    dtrain.manual_seed(3)
    rng = np.random.Generator(np.random.Philox(key=7))
    x, y = rng.standard_normal((samples, 1, 4, 4)).astype(dtype), rng.integers(0, 5, samples)
    model = wrap(make().to(np.dtype(dtype)).to(device), comm, microbatches, **options)
    make_optimizer = optim.SGD if sharded is None else partial(sharded, comm=comm)
    optimizer = make_optimizer(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    loader = data.DataLoader(
        data.ArrayDataset(x, y), batch_size, shuffle=True, comm=comm, microbatches=microbatches, drop_last=False
    )
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with dtrain.autocast(device, enabled=autocast):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            if model.synchronized:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(getattr(model, "loss", 0.0))
    return fingerprint(model.module), losses


def train_with_one_thread(comm: Communicator, microbatches: int) -> tuple[str, list[float]]:
    """`train`, as ranks with one thread each do it: the bits are a function of M and of the threads."""
    cpu.available()  # loads oneDNN, so that its threads are limited, too
    with threadpool_limits(1):
        return train(comm, microbatches)


def fingerprint(module: nn.Module) -> str:
    """A hash of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()
