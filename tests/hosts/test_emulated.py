"""Emulated hosts are what ranks take them for: apart, connected, counted, limited, and gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from dtrain.comm import SingleCommunicator
from tests.examples.programs import EXAMPLES, result_of, run_example, write_small_data
from tests.hosts.emulated import Cluster
from tests.launch.jobs import ROOT, environment, needs_mpi, needs_survival
from tests.launch.test_survive import TRAINING as MORTAL_TRAINING
from tests.parallel.training import train_with_one_thread

Hosts = Callable[..., Cluster]
SEGMENT = 1448  # bytes of data in a full TCP segment on Ethernet

WHERE = """
import json

import numpy as np

from dtrain.comm import MPICommunicator

comm = MPICommunicator()
places = comm.all_gather_object([comm.rank, comm.host, comm.local_rank, comm.local_size])
if comm.rank == 0:
    print(json.dumps(places))
assert comm.window(100) is None, "memory is shared between hosts"
from dtrain.parallel.exchange import HostsExchange, open_exchange

exchange = open_exchange(comm, comm.size, [np.zeros(9, np.float32)], None, exact=True, overlap=True)
assert isinstance(exchange, HostsExchange), "not even where a host has one rank"
window = comm.host_group().window(100)
if comm.local_size > 1:
    window.parts[comm.local_rank][:] = comm.rank
    window.meet()
    first = comm.rank - comm.local_rank
    assert [part[99] for part in window.parts] == list(range(first, first + comm.local_size))
comm.barrier()
"""


@needs_mpi
@pytest.mark.parametrize(
    ("ranks", "places"),
    [
        (4, [[0, "host1", 0, 2], [1, "host1", 1, 2], [2, "host2", 0, 2], [3, "host2", 1, 2]]),
        (3, [[0, "host1", 0, 2], [1, "host1", 1, 2], [2, "host2", 0, 1]]),
        ([1, 2], [[0, "host1", 0, 1], [1, "host2", 0, 2], [2, "host2", 1, 2]]),
    ],
    ids=["2+2", "2+1", "1+2"],
)
def test_ranks_know_their_hosts_and_share_memory_only_there(
    ranks: int | list[int], places: list[list[object]], emulated_hosts: Hosts
) -> None:
    done = emulated_hosts(2).mpirun(ranks, [sys.executable, "-c", WHERE])
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == places


@needs_mpi
@pytest.mark.parametrize("ranks", [4, 3], ids=["2+2", "2+1"])
def test_training_on_two_hosts_gives_the_bits_of_one_process(ranks: int, emulated_hosts: Hosts, tmp_path: Path) -> None:
    write_small_data(tmp_path)
    options = ("--steps", "5", "--microbatches", "6", "--batch-size", "46", "--data", str(tmp_path))
    want = result_of(run_example("train.py", *options))
    done = emulated_hosts(2).mpirun(ranks, [sys.executable, str(EXAMPLES / "train.py"), *options])
    got = result_of(done)
    assert got["ranks"] == ranks
    assert {name: got[name] for name in ("sha256", "loss", "accuracy")} == {
        name: want[name] for name in ("sha256", "loss", "accuracy")
    }


@needs_mpi
@pytest.mark.parametrize("ranks", [4, 3], ids=["2+2", "2+1"])
def test_what_ranks_of_one_host_pass_passes_on_two(ranks: int, emulated_hosts: Hosts) -> None:
    """The tests in tests/mpi, whose transports then go between hosts."""
    tests = [sys.executable, "-m", "pytest", str(ROOT / "tests/mpi")]
    done = emulated_hosts(2).mpirun(ranks, tests, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_survival
@pytest.mark.parametrize(
    ("ranks", "deaths"),
    [(4, {0: 1}), (4, {1: 2, 2: 2}), (4, {2: 2, 3: 2}), (2, {0: 1}), (2, {1: 2})],
    ids=["rank 0", "one of each", "a whole host", "rank 0 of two", "rank 1 of two"],
)
def test_the_survivors_of_two_hosts_end_with_the_bits_of_all(
    ranks: int, deaths: dict[int, int], emulated_hosts: Hosts, tmp_path: Path
) -> None:
    """They die in a backward pass whose first buckets are on their way. Two ranks do not give way to each other, and
    look at their messages."""
    (tmp_path / "script.py").write_text(MORTAL_TRAINING.format(deaths=deaths, overlap=True))
    mpirun = ["--with-ft", "ulfm", sys.executable, str(tmp_path / "script.py")]
    gives_way = {"OMPI_MCA_mpi_yield_when_idle": str(int(ranks > 2))}
    done = emulated_hosts(2).mpirun(ranks, mpirun, **gives_way)
    assert done.returncode == 0, done.stdout + done.stderr
    sha256, losses = train_with_one_thread(SingleCommunicator(), 5)
    assert f"{sha256} after {len(losses)} steps on {ranks - len(deaths)} ranks" in done.stdout


@needs_mpi
def test_bytes_on_the_wire(emulated_hosts: Hosts) -> None:
    cluster = emulated_hosts(2, rate="10gbit")
    script = """
import numpy as np
from dtrain.comm import MPICommunicator

comm = MPICommunicator()
comm.all_to_all(np.ones(1 << 25, np.uint8), [1 << 24] * 2, [1 << 24] * 2)
"""
    before = cluster.sent()
    done = cluster.mpirun(2, [sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr
    again = [node.sent_again() * SEGMENT for node in cluster.nodes]
    sent = np.subtract(cluster.sent(), before) - again
    assert (sent >= 1 << 24).all() and (sent < 1.05 * (1 << 24)).all(), sent


def test_links_carry_what_they_are_told(emulated_hosts: Hosts) -> None:
    cluster = emulated_hosts(1, rate="100mbit")
    assert "rate 100Mbit" in cluster.nodes[0].run("tc", "qdisc", "show", "dev", "eth0")
    assert "rate 100Mbit" in cluster.front.run("tc", "qdisc", "show", "dev", "to-host1")


def test_shared_memory_and_processes_are_a_hosts_own(emulated_hosts: Hosts) -> None:
    one, two = emulated_hosts(2).nodes
    one.run("touch", "/dev/shm/of-host1")
    assert one.run("ls", "/dev/shm") == "of-host1\n" and two.run("ls", "/dev/shm") == ""
    assert not Path("/dev/shm/of-host1").exists()
    with subprocess.Popen(one.command("sleep", "1000")) as process:
        try:
            while "sleep" not in one.run("sh", "-c", "cat /proc/[0-9]*/comm"):
                pass
            assert "sleep" not in two.run("sh", "-c", "cat /proc/[0-9]*/comm")
        finally:
            process.kill()


# Makes two hosts and starts a process on the second.
HOLDER = """
import subprocess, sys, time
from tests.hosts.emulated import hosts

with hosts(2) as cluster:
    cluster.nodes[1].run("sh", "-c", "sleep $0 > /dev/null &", sys.argv[1])
    print(*(node.pid for node in [cluster.front, *cluster.nodes]), flush=True)
    {end}
"""


@pytest.mark.parametrize(
    ("end", "number", "code"),
    [
        ("pass", None, 0),
        ("raise KeyError", None, 1),
        ("time.sleep(1000)", signal.SIGINT, -signal.SIGINT),
        ("time.sleep(1000)", signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=["end", "exception", "interrupt", "kill -9"],
)
def test_nothing_is_left(end: str, number: signal.Signals | None, code: int, emulated_hosts: Hosts) -> None:
    seconds = f"1000.{os.getpid()}"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(end=end), seconds],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        text=True,
    ) as process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        assert len(pids) == 3
        if number is not None:
            process.send_signal(number)
        assert process.wait() == code
    wait_until(lambda: not any(Path("/proc", pid).exists() for pid in pids))
    assert not processes_with(seconds)


@needs_mpi
def test_a_job_that_takes_too_long_is_ended_with_its_hosts(emulated_hosts: Hosts) -> None:
    seconds = f"2000.{os.getpid()}"
    with pytest.raises(subprocess.TimeoutExpired):
        emulated_hosts(2).mpirun(2, ["sleep", seconds], timeout=1.5)
    wait_until(lambda: not processes_with(seconds))


def processes_with(argument: str) -> list[str]:
    """The processes of this machine that were started with this argument."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if argument in file.read_text().split("\0"):
                found.append(file.parent.name)
    return found


def wait_until(done: Callable[[], bool]) -> None:
    """The kernel may take a moment; it never takes a minute."""
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)
