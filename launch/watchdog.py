"""A rank that waits too long for the others ends the job, and the output says who is missing and why.

A thread on every rank looks once in a while at what the rank is waiting for (dtrain/comm/waits.py). Where that
takes longer than the limit, all ranks tell each other where they are, in messages of their own, and each prints
what it knows: step, bucket and parameters, the ranks that have not arrived and where they are instead, the stacks
of its threads. Then the job is aborted. A rank that is stopped does not answer; one that loops or waits elsewhere does.

A rank that leaves its script says so, and stays until all have left: who waits for it waits in vain, and need
not wait for the limit.
"""

from __future__ import annotations

import atexit
import os
import sys
import sysconfig
import threading
import time
import traceback
from dataclasses import dataclass

import dtrain
from dtrain.comm import MPICommunicator, State, Waits, state_of

__all__ = ["AT_THE_START", "Patience", "Watchdog"]

GRACE = 3.0  # seconds for the others' answers
AT_THE_START = 3  # how much longer a wait may be before the first step is done: data are fetched, files are cold
STARTED = 100  # collectives after which a script without a model has started

OURS = [os.path.dirname(dtrain.__file__), os.path.dirname(__file__), *map(sysconfig.get_path, ("stdlib", "purelib"))]


class Patience:
    """How long each of the present waits has taken.

    timeout: seconds that one may take; until the first step is done, three times as long.
    """

    def __init__(self, waits: Waits, timeout: float) -> None:
        self._waits, self._timeout = waits, timeout
        self._waited: dict[str, tuple[int, float]] = {}  # by name: in which call, and for how long

    def exhausted(self, passed: float) -> str:
        """Why one of the waits is too long, "" if none is. passed: seconds since the last look."""
        for name, state in self._waits.states().items():
            number, seconds = self._waited.get(name, (0, 0.0))
            seconds = seconds + passed if state.waiting and number == state.number else 0.0
            self._waited[name] = state.number, seconds
            started = self._waits.steps or state.number > STARTED
            limit = self._timeout * (1 if started else AT_THE_START)
            if seconds > limit:
                return f"has waited for {seconds:.1f} s, the limit is {limit:g} s"
        return ""


@dataclass(frozen=True)
class Place:
    """Where a rank is: what it tells the others."""

    text: str
    states: dict[str, State]
    left: bool  # it has left its script


class Watchdog:
    """Watches the waits of this rank of `comm`, from a thread of its own. All ranks make one.

    timeout: seconds that a wait for other ranks may take. Only time in which this process runs counts, so the
    whole job may be suspended.
    """

    def __init__(self, comm: MPICommunicator, timeout: float) -> None:
        self._comm, self._pid = comm, os.getpid()
        self._patience = Patience(comm.waits, timeout)
        self._mail = comm.mail()
        self._tick = min(1.0, timeout / 8)
        self._left: dict[int, Place] = {}
        self._leaving, self._all_left = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        # Registered before anything that uses the communicator is, so called after it.
        atexit.register(self._leave)

    def _leave(self) -> None:
        """The script is over on this rank: wait here, able to answer, until it is over on all."""
        if os.getpid() == self._pid:  # not in a forked child
            self._leaving.set()
            self._all_left.wait()

    def _watch(self) -> None:
        farewell, last, generation = None, time.monotonic(), 0
        while farewell is None or not farewell():
            if farewell is None:
                self._leaving.wait(self._tick)
            else:
                time.sleep(min(0.01, self._tick))
            if self._comm.generation != generation:  # other ranks, and nobody has left before they went on
                generation, self._left = self._comm.generation, {}
            now = time.monotonic()
            passed, last = min(now - last, 2 * self._tick), now
            answers = self._read()
            if answers:
                self._alarm("another rank has waited too long", answers)
            elif self._leaving.is_set():
                if farewell is None:
                    self._tell_all()
                    farewell = self._mail.farewell()
            elif reason := self._patience.exhausted(passed) or self._in_vain():
                self._alarm(reason, answers)
        self._read()  # MPI may complain of what nobody has received
        self._all_left.set()

    def _in_vain(self) -> str:
        """Which rank will never come to where this one waits."""
        for name, state in self._comm.waits.states().items():
            gone = [str(rank) for rank in self._missing(name, state, self._left) if rank in self._left]
            if state.waiting and gone:
                return f"waits for rank {', '.join(gone)}, where the script is over"
        return ""

    # -- asking and telling ----------------------------------------------------------------------

    def _place(self) -> Place:
        states = self._comm.waits.states()
        words = [self._comm.waits.where()]
        words += [f"in {state.what}, call {state.number} of {name}" for name, state in states.items() if state.waiting]
        words += ["the script is over" if self._leaving.is_set() else _line_of_script()]
        return Place("; ".join(filter(None, words)), states, self._leaving.is_set())

    def _tell_all(self) -> None:
        """Whoever gets this from a rank that has not left tells all others where it is, in turn."""
        place = self._place()
        for rank in range(self._comm.size):
            if rank != self._comm.rank:
                self._mail.send(rank, place)

    def _read(self) -> dict[int, Place]:
        """What has come: the places of ranks that have not left the script. Others are remembered."""
        places = dict(self._mail.look())
        self._left.update({rank: place for rank, place in places.items() if place.left})
        return {rank: place for rank, place in places.items() if not place.left}

    def _alarm(self, reason: str, answers: dict[int, Place]) -> None:
        """Hear where the others are, print it, and end the job."""
        self._tell_all()
        deadline = time.monotonic() + GRACE
        while len(answers | self._left) < self._comm.size - 1 and time.monotonic() < deadline:
            time.sleep(0.02)
            answers |= self._read()
        time.sleep(min(0.05 * self._comm.rank, 1.0))  # one after the other is easier to read
        sys.stderr.write(self._report(reason, self._left | answers))
        sys.stderr.flush()
        # The others print too, and mpirun may drop what it has not passed on when the job is aborted.
        time.sleep(1.5 if self._comm.rank == min([self._comm.rank, *answers]) else 2 * GRACE)
        self._comm.abort(1)

    def _report(self, reason: str, places: dict[int, Place]) -> str:
        comm, place = self._comm, self._place()
        lines = [f"\n[rank {comm.rank} on {comm.host}] watchdog: {reason}", f"  {place.text}"]
        for name, state in place.states.items():
            if state.waiting:
                lines.append(f"  these ranks have not arrived at call {state.number} of {name}, {state.what}:")
                lines += [f"    rank {r}: {self._says(r, places)}" for r in self._missing(name, state, places)]
        if place.left:
            return "\n".join([*lines, ""])
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != threading.get_ident():
                lines += [f"  {names.get(ident, 'a thread')}:", "".join(traceback.format_stack(frame)).rstrip()]
        return "\n".join([*lines, "  another limit: Job(timeout=...) or $DTRAIN_TIMEOUT, in seconds; 0 for none\n"])

    def _missing(self, name: str, state: State, places: dict[int, Place]) -> list[int]:
        """The ranks that have not arrived where this one waits, as far as their places say."""
        missing = state.missing
        if missing is None:
            others = [rank for rank in state.ranks if rank != self._comm.rank]
            missing = [r for r in others if r not in places or not _arrived(name, state, places[r])]
        return list(missing)

    def _says(self, rank: int, places: dict[int, Place]) -> str:
        """Where a rank is: its own words, or what this host knows about a process that does not answer."""
        if rank in places:
            return places[rank].text
        host, pid = self._comm.processes[rank]
        if host != self._comm.host:
            return f"does not answer (process {pid} on {host}); is it stopped, is its host reachable?"
        state = state_of(pid)
        if not state:
            return f"does not answer: process {pid} is gone"
        if state in "Tt":
            return f"does not answer: process {pid} is stopped; kill -CONT {pid} would let it go on"
        return f"does not answer: process {pid} is in state {state} (see proc(5)) and runs no Python thread"


def _arrived(name: str, state: State, place: Place) -> bool:
    """Whether a rank at this place has come to the call of this state, and calls the same."""
    theirs = place.states.get(name)
    return theirs is not None and (
        theirs.number > state.number or (theirs.number, theirs.what) == (state.number, state.what)
    )


def _line_of_script() -> str:
    """Where the main thread is, in the user's code if there is some on the stack."""
    found = frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if not frame.f_code.co_filename.startswith((*OURS, "<")):
            found = frame
            break
        frame = frame.f_back
    return f"{found.f_code.co_filename}:{found.f_lineno} in {found.f_code.co_name}" if found else ""
