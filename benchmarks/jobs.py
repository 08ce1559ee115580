"""Jobs of one or more ranks that train a workload with dtrain or PyTorch, a few steps at a time, when they are told to.

A `Job` starts its processes at once; they build the model, make some steps to warm up, and then sleep on a socket
until `time` wants steps of them. So several jobs can live side by side on a machine and take turns, and what changes
on the machine meanwhile changes for all of them. This file is also the program that the processes run.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, Workload

from launch.runtime import find_mpirun, mpirun_family, settings

__all__ = ["LIBRARIES", "MODES", "OURS", "Job", "time_together"]

LIBRARIES = {"dtrain": "dtrain", "torch": "PyTorch"}
#: dtrain's ways to run a step.
OURS = {"dtrain": "eager", "dtrain-captured": "captured"}
#: PyTorch's ways to run a model, and what they are called.
MODES = {"torch": "eager", "torch-channels-last": "channels last", "torch-compile": "compiled"}
WARM_UP = 5


class Job:
    """`ranks` processes, one thread each, that train one model of `workload` on batches of their own.

    At one rank it is the plain module, at more the module in DistributedDataParallel: over MPI for dtrain, over gloo
    for PyTorch. library: one of OURS, or of MODES. A context manager; raises RuntimeError, with what they printed,
    where its processes end by themselves.

    peak: MiB that a process of it took at most beyond what it had before it made its model, known from `finish` on.
    """

    def __init__(self, library: str, workload: str, ranks: int = 1) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the job)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.folder.name}/socket")
        self.listener.listen(ranks)
        self.listener.settimeout(0.2)
        script = [sys.executable, __file__, self.folder.name, library, workload]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if library in OURS and ranks > 1:
            mpirun = find_mpirun()
            environment |= settings(mpirun_family(mpirun)[0], ranks)
            commands = [([mpirun, "-n", str(ranks), *script], environment)]
        else:
            commands = [(script, environment | {"RANK": str(r), "WORLD_SIZE": str(ranks)}) for r in range(ranks)]
        self.processes = [
            subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output)
            for command, env in commands
        ]
        self.ranks, self.connections, self.peak = ranks, [], 0.0

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: Any) -> None:
        for connection in self.connections:
            connection.close()  # which ends the process
        for process in self.processes:
            try:
                process.wait(20 if self.connections else 0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.listener.close()
        self.output.close()
        self.folder.cleanup()

    def start(self, steps: int) -> None:
        """Make the processes begin `steps` steps, after one to fill the caches again."""
        while len(self.connections) < self.ranks:
            try:
                self.connections.append(self.listener.accept()[0].makefile("rw"))
            except TimeoutError:
                if any(process.poll() is not None for process in self.processes):
                    self._fail()
        for connection in self.connections:
            connection.write(f"{steps}\n")
            connection.flush()

    def finish(self) -> float:
        """The median of a step in milliseconds, averaged over ranks, once all of them have made what `start` wanted."""
        lines = [connection.readline().split() for connection in self.connections]
        if not all(lines):
            self._fail()
        self.peak = max(float(line[1]) for line in lines)
        return statistics.mean(float(line[0]) for line in lines)

    def _fail(self) -> None:
        self.output.seek(0)
        raise RuntimeError(f"{' '.join(map(str, self.processes[0].args))} has ended:\n{self.output.read()}")


def time_together(jobs: list[Job], steps: int) -> float:
    """The median step in milliseconds of jobs that run at the same time, averaged over them."""
    for job in jobs:
        job.start(steps)
    return statistics.mean([job.finish() for job in jobs])


# -- the program of a job's processes ----------------------------------------------------------------


def main() -> None:
    folder, library, name = sys.argv[1:]
    workload = WORKLOADS[name]
    if library in OURS:
        import dtrain  # noqa: F401
    else:
        import torch  # noqa: F401
    before = memory("VmRSS")
    step, finish = dtrain_step(workload, library) if library in OURS else torch_step(workload, library, folder)
    for _ in range(WARM_UP):
        step()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{folder}/socket")
        with connection.makefile("rw") as file:
            for line in file:
                step()
                times = []
                for _ in range(int(line)):
                    start = time.perf_counter()
                    step()
                    times.append((time.perf_counter() - start) * 1e3)
                file.write(f"{statistics.median(times)} {memory('VmHWM') - before}\n")
                file.flush()
    finish()


def memory(name: str) -> float:
    """MiB of this process: "VmRSS" what it has, "VmHWM" what it has had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def dtrain_step(workload: Workload, mode: str = "dtrain") -> tuple[Callable[[], None], Callable[[], None]]:
    import dtrain
    import launch

    job = launch.Job(seed=0, threads=1)
    model = workload.make(dtrain.nn)
    if job.size > 1:
        model = dtrain.DistributedDataParallel(model, job.comm)
    return workload.stepper(dtrain, model, capture=job.capture if mode == "dtrain-captured" else None), job.comm.close


def torch_step(workload: Workload, mode: str, folder: str) -> tuple[Callable[[], None], Callable[[], None]]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    model, options = workload.make(torch.nn), {"fused": True} if workload.text else {}
    if mode == "torch-channels-last":
        model = model.to(memory_format=torch.channels_last)
        options["memory_format"] = torch.channels_last
    if mode == "torch-compile":
        model = torch.compile(model)
    if ranks > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=ranks)
        model = torch.nn.parallel.DistributedDataParallel(model)

    def finish() -> None:
        if ranks > 1:
            torch.distributed.barrier()
            os._exit(0)  # gloo's threads sometimes end a process with "terminate called" on the ordinary way out

    return workload.stepper(torch, model, **options), finish


if __name__ == "__main__":
    main()
