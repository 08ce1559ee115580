"""float16 and PowerSGD beside PyTorch's own hooks, at 2 ranks over gloo: the same weights, up to rounding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import dtrain
from dtrain import nn, optim
from dtrain.comm import Communicator, run_ranks
from dtrain.nn import functional as F
from dtrain.parallel.hooks import default_hooks, powerSGD_hook

N, M, RANKS, STEPS = 30, 20, 2, 8
HOOKS = {"fp16": 0, "PowerSGD": 1, "PowerSGD of rank 2": 2}  # columns of PowerSGD's matrices

PYTORCH = """
import os
import sys
import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

folder, rank, n, m, ranks, steps = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
given = np.load(f"{folder}/given.npz")
for r in range(3):
    net = torch.nn.Linear(m, n)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(given["weight"]))
        net.bias.zero_()
    model = torch.nn.parallel.DistributedDataParallel(net)
    if r:
        state = powerSGD_hook.PowerSGDState(None, r, start_powerSGD_iter=2, min_compression_rate=1)
        state.p_memory_dict[0] = torch.zeros(n * r)
        state.q_memory_dict[0] = torch.tensor(given[f"q{r}"]).reshape(-1)
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    else:
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        x, y = (torch.tensor(given[name][step, rank]) for name in "xy")
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    if rank == 0:
        np.save(f"{folder}/weight{r}.npy", net.weight.detach().numpy())
dist.barrier()
os._exit(0)  # gloo's threads sometimes end a process with "terminate called" on the ordinary way out
"""


def ours(comm: Communicator, given: Any, r: int) -> np.ndarray:
    net = nn.Linear(M, N)
    net.load_state_dict({"weight": dtrain.tensor(given["weight"]), "bias": dtrain.zeros(N)})
    model = dtrain.DistributedDataParallel(net, comm)
    if r:
        state = powerSGD_hook.PowerSGDState(None, r, start_powerSGD_iter=2, min_compression_rate=1)
        state.load_state_dict({"iter": 0, "errors": {}, "qs": {"weight": given[f"q{r}"]}})
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    else:
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for x, y in zip(given["x"], given["y"], strict=True):
        F.mse_loss(model(dtrain.tensor(x[comm.rank])), dtrain.tensor(y[comm.rank])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net.weight.detach().numpy()


def test_the_same_weights_as_pytorch(torch: Any, tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(key=2))
    shapes = {"weight": (N, M), "x": (STEPS, RANKS, 16, M), "y": (STEPS, RANKS, 16, N), "q1": (M, 1), "q2": (M, 2)}
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "given.npz", **given)
    sizes = [str(number) for number in (N, M, RANKS, STEPS)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PYTORCH, str(tmp_path), str(rank), *sizes],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    try:
        outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert not any(rank.returncode for rank in ranks), "\n".join(outputs)
    whole = run_ranks(1, lambda comm: ours(comm, {**given, "x": given["x"][:, :1], "y": given["y"][:, :1]}, 0))[0]
    for name, r in HOOKS.items():
        theirs = np.load(tmp_path / f"weight{r}.npy")
        mine, same = run_ranks(RANKS, lambda comm, r=r: ours(comm, given, r))  # type: ignore[misc]
        assert mine.tobytes() == same.tobytes()
        moved = np.abs(theirs - given["weight"]).max()
        assert np.abs(mine - theirs).max() < (1e-3 if not r else 1e-4) * moved, name
        assert np.abs(whole - theirs).max() > 0.01 * moved, "other data would show"
