"""A training run in which one bit flips on one rank, for tests on threads and over MPI."""

from __future__ import annotations

from typing import Any

import numpy as np

import dtrain
from dtrain import nn, optim
from dtrain.backend import Array
from dtrain.comm import Communicator
from dtrain.parallel import Divergence

__all__ = ["PLACES", "train_and_flip"]

# What flips in step 5 -> the phase, the name and the element that a comparison after step 5 must give.
PLACES = {
    "gradient": ("gradients after the reduction", "2.weight", (1, 3)),
    "parameter": ("parameters after the optimizer", "2.weight", (1, 3)),
    "frozen parameter": ("parameters after the optimizer", "3.bias", (1,)),
    "optimizer state": ("parameters after the optimizer", "2.weight", (1, 3)),
    "buffer": ("buffers", "1.running_var", (2,)),
    "counter": ("buffers", "1.num_batches_tracked", ()),
}


def train_and_flip(comm: Communicator, place: str, rank: int, **options: Any) -> tuple[Divergence, Any, Any]:
    """What is raised, on any rank; and on `rank` the element before and after the flip."""
    dtrain.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4), nn.Linear(4, 2))
    net[3].requires_grad_(False)
    model = dtrain.DistributedDataParallel(net, comm, 4, **options)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rng = np.random.Generator(np.random.Philox(key=1))
    step, changed = 0, (None, None)
    element = PLACES[place][2]

    def flip(array: Array) -> None:
        nonlocal changed
        if step == 5 and comm.rank == rank:
            before = array[element].copy()
            bits = array.view(f"u{array.itemsize}")
            bits[element] ^= bits.dtype.type(1 << 20)
            changed = before, array[element].copy()

    if place == "gradient":  # as the reduction leaves it
        finish = model._finish_step

        def finish_and_flip() -> None:
            flip(net[2].weight._flat.grad.array)
            finish()

        model._finish_step = finish_and_flip
    try:
        for step in range(10):
            x = rng.standard_normal((4, 3, 6)).astype("f")
            for j in model.block:
                model(dtrain.tensor(x[j])).square().mean().backward()
            if place == "optimizer state":
                flip(optimizer.state[net[2].weight]["momentum_buffer"].array if step else np.zeros((4, 5), "f"))
            optimizer.step()
            optimizer.zero_grad()
            things = {
                "parameter": net[2].weight,
                "frozen parameter": net[3].bias,
                "buffer": net[1].running_var,
                "counter": net[1].num_batches_tracked,
            }
            if place in things:
                flip(things[place].array)
    except Divergence as error:
        return error, *changed
    raise AssertionError("nothing was found")
