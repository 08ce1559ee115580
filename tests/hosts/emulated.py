"""Several hosts on this machine, for tests and benchmarks of what goes between hosts.

    with hosts(2, rate="1gbit") as cluster:
        done = cluster.mpirun(4, [sys.executable, "train.py"])  # ranks 0, 1 on host1, 2, 3 on host2
        print(cluster.sent())  # bytes on the wire, per host

A host is a set of Linux namespaces: its own network, host name, shared memory (System V, POSIX and
/dev/shm) and process numbers; files and processors are shared. A front end, on which mpirun runs, is the
switch to which all are connected; their addresses exist nowhere else. Nothing has a name on the machine, so any
number of clusters can be there at a time, and nothing is left over: a host lasts as long as the pipe
to its first process, and the kernel ends its other processes with that one.

Needs root and iproute2; `why_not` says what is missing.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from launch.runtime import find_mpirun, mpirun_family, settings

__all__ = ["Cluster", "Host", "hosts", "why_not"]

ROOT = Path(__file__).parents[2]
SUBNET = "10.77.0"
FRONT = f"{SUBNET}.254"
PROGRAMS = ("ip", "tc", "unshare", "nsenter")


class Host:
    """A set of namespaces, which lasts until `close` or until the process ends that has made it."""

    def __init__(self, name: str, address: str, others: Mapping[str, str], own_pids: bool = True) -> None:
        self.name, self.address = name, address
        self.own_pids = own_pids
        lines = "".join(f"{ip} {host}\\n" for host, ip in ({"localhost": "127.0.0.1"} | dict(others)).items())
        setup = f"""
            set -e
            echo {name} > /proc/sys/kernel/hostname
            mount -t tmpfs tmpfs /dev/shm
            printf '{lines}' > /dev/shm/hosts
            mount --bind /dev/shm/hosts /etc/hosts
            rm /dev/shm/hosts
            ip link set lo up
            trap '' CHLD  # orphans of the host are this process's children, and need no reaping then
            echo ready
            exec cat  # until the pipe is closed
        """
        pids = ["--pid", "--fork", "--mount-proc"] if own_pids else []
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--ipc", "--mount", *pids, "sh", "-c", setup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            self.close()
            raise RuntimeError(f"{name} cannot be set up; see the messages above")

    def close(self) -> None:
        """End the host, and all processes on it if it numbers them."""
        self._holder.communicate()

    @property
    def pid(self) -> int:
        """A process of this machine that is in the host's namespaces."""
        return self._holder.pid

    def command(self, *command: str) -> list[str]:
        """The command that runs `command` on this host, in the folder in which it is started."""
        pids = [f"--pid=/proc/{self.pid}/ns/pid_for_children"] if self.own_pids else []
        enter = ["nsenter", "--target", str(self.pid), "--net", "--uts", "--ipc", "--mount", *pids]
        return [*enter, "--", "sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(), *command]

    def run(self, *command: str) -> str:
        """Run a command on this host; returns what it prints. Raises CalledProcessError if it fails."""
        return subprocess.run(self.command(*command), stdout=subprocess.PIPE, text=True, check=True).stdout

    def sent(self) -> int:
        """Bytes that this host has sent over its link, with the headers of Ethernet and IP."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            device, _, numbers = line.strip().partition(":")
            if device == "eth0":
                return int(numbers.split()[8])
        raise RuntimeError(f"{self.name} has no eth0")

    def sent_again(self) -> int:
        """TCP segments that this host has sent more than once: a receiver that did not run in time causes them."""
        lines = Path(f"/proc/{self.pid}/net/snmp").read_text().splitlines()
        names, numbers = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(numbers[names.index("RetransSegs")])


class Cluster:
    """`nodes`, the hosts, joined to `front`, from which mpirun starts ranks on them."""

    def __init__(self, front: Host, nodes: Sequence[Host]) -> None:
        self.front, self.nodes = front, list(nodes)

    def sent(self) -> list[int]:
        """Bytes that each host has sent over its link so far."""
        return [node.sent() for node in self.nodes]

    def environment(self, ranks: int, **more: str) -> dict[str, str]:
        """That of mpirun of so many ranks on the front end: how to reach the hosts, what the MPI needs."""
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            # mpirun's own files, whose names would be those of another cluster's.
            "TMPDIR": "/dev/shm",
            "EMULATED_HOSTS": " ".join(f"{node.name}={node.pid}" for node in self.nodes),
            "HYDRA_LAUNCHER": "ssh",
            "HYDRA_LAUNCHER_EXEC": str(Path(__file__).with_name("ssh")),
            "PRTE_MCA_plm_ssh_agent": str(Path(__file__).with_name("ssh")),
            **settings(mpirun_family(find_mpirun())[0], ranks),
            # Open MPI: as many ranks on a host as its name is given with, in order.
            "PRTE_MCA_rmaps_default_mapping_policy": "slot",
            **more,
        }

    def start(
        self, ranks: int | Sequence[int], command: Sequence[str], output: int | None = None, **more: str
    ) -> subprocess.Popen[str]:
        """Start `command` under this environment's mpirun; see `mpirun`. `output`: as Popen's stdout and stderr."""
        count = len(self.nodes)
        if isinstance(ranks, int):
            ranks = [ranks // count + (i < ranks % count) for i in range(count)]
        if len(ranks) != count or sum(ranks) < 1:
            raise ValueError(f"ranks must be a number for each of {count} hosts, or one for all, got {ranks}")
        slots = ",".join(f"{node.name}:{n}" for node, n in zip(self.nodes, ranks, strict=True) if n)
        mpirun = [find_mpirun(), "--host", slots, "-n", str(sum(ranks))]
        return subprocess.Popen(
            self.front.command(*mpirun, *command),
            stdout=output,
            stderr=output,
            text=True,
            env=self.environment(sum(ranks), **more),
        )

    def mpirun(
        self, ranks: int | Sequence[int], command: Sequence[str], timeout: float = 120, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` on so many ranks, spread evenly over the hosts in order, or on ranks[i] on host i.

        more: environment variables. Raises subprocess.TimeoutExpired after `timeout` seconds; the
        cluster is of no use then.
        """
        with self.start(ranks, command, subprocess.PIPE, **more) as process:
            try:
                output, errors = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                for node in self.nodes:
                    node.close()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@contextmanager
def hosts(count: int, rate: str | None = None) -> Iterator[Cluster]:
    """A cluster of hosts "host1", "host2", ..., whose links carry `rate` in each direction: "1gbit", None for no limit.

    Raises RuntimeError where `why_not` has something to say, and subprocess.CalledProcessError where
    the rate is none that tc understands.
    """
    if reason := why_not():
        raise RuntimeError(f"hosts cannot be emulated: {reason}")
    addresses = {f"host{i}": f"{SUBNET}.{i}" for i in range(1, count + 1)}
    everyone = {"front": FRONT} | addresses
    with ExitStack() as stack:
        front = Host("front", FRONT, everyone, own_pids=False)
        stack.callback(front.close)
        front.run("ip", "link", "add", "name", "switch", "type", "bridge")
        front.run("ip", "link", "set", "switch", "up")
        front.run("ip", "address", "add", f"{FRONT}/24", "dev", "switch")
        nodes = []
        for name, address in addresses.items():
            nodes.append(Host(name, address, everyone))
            stack.callback(nodes[-1].close)
            _connect(nodes[-1], front, rate)
        yield Cluster(front, nodes)


def _connect(node: Host, front: Host, rate: str | None) -> None:
    """A cable from the host's eth0 to a port of the bridge."""
    port = f"to-{node.name}"
    front.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(node.pid))
    front.run("ip", "link", "set", port, "master", "switch", "up")
    node.run("ip", "address", "add", f"{node.address}/24", "dev", "eth0")
    node.run("ip", "link", "set", "eth0", "up")
    if rate is not None:
        for end, device in ((node, "eth0"), (front, port)):
            end.run(*f"tc qdisc add dev {device} root tbf rate {rate} burst 256kb latency 50ms".split())


@functools.cache
def why_not() -> str | None:
    """What hosts need and this machine lacks, None if nothing."""
    if sys.platform != "linux":
        return f"namespaces are Linux's, this is {sys.platform}"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)} on PATH (Debian, Ubuntu: apt install iproute2 util-linux)"
    if os.geteuid() != 0:
        return "needs root"
    attempt = "ip link add name switch type bridge && ip link add name end type veth && tc qdisc add dev end root tbf"
    attempt += " rate 1gbit burst 256kb latency 50ms"
    done = subprocess.run(
        ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec", attempt],
        capture_output=True,
        text=True,
    )
    return None if done.returncode == 0 else f"this kernel, or this container, does not allow it: {done.stderr.strip()}"
