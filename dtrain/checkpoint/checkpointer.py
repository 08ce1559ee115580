"""Checkpointer: writes checkpoints while training goes on, goes on from them, and leaves when asked to stop."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.numpy import load as load_arrays

from dtrain.backend import Array
from dtrain.backend.libraries import versions
from dtrain.backend.random import key
from dtrain.checkpoint.capsule import describe_failure, gradient_hash, newest_before, state_hash
from dtrain.checkpoint.files import Damaged, checkpoints, prepare, prune, read, write
from dtrain.checkpoint.state import pack, unpack
from dtrain.comm import Communicator, RankLost, Request
from dtrain.data import DataLoader
from dtrain.nn import Module
from dtrain.parallel import DiLoCo, DistributedDataParallel, Divergence

__all__ = ["STOPPED", "Checkpointer", "Stopped"]

T = TypeVar("T")

STOPPED = 75  #: exit code of a job that was asked to stop and can be resumed (EX_TEMPFAIL of sysexits.h)
FORMAT = 1


class Stopped(SystemExit):
    """Ends every rank after the same step, with exit code STOPPED: the job was asked to stop, and can be resumed."""


class Checkpointer:
    """Keeps the state of a run in a directory.

        checkpoint = Checkpointer("run", job.comm, every=100, model=model, optimizer=optimizer, loader=loader)
        checkpoint.resume()                      # from the newest checkpoint, if there is one
        for x, y in loader:
            ...
            if model.synchronized:
                optimizer.step()
                optimizer.zero_grad()
                checkpoint.step()                # after everything that belongs to the step
        checkpoint.close()

    directory: seen by rank 0, which writes and reads; None: steps are counted, nothing is written. every: steps
    from one checkpoint to the next; None: one is written only when the job is asked to stop. keep: how many stay.
    Others by keyword: what the state consists of. Each has `state_dict()` and `load_state_dict(state)` with
    the same contents on every rank, and may have

        consolidate_state_dict()   called before state_dict, on all ranks: makes the whole state of parts
        position                   what belongs to the state and is not in the state dict; read and set
        stopping                   whether any rank was asked to stop, equal on all ranks after a step

    A checkpoint also holds the step, the position of the random streams, the seed, M and the threads per rank. It
    is copied when the step ends and written by a thread of rank 0; the next one waits until it is on the disk.

    A job that has a Checkpointer with a directory finishes its step on SIGTERM, SIGUSR1 or SIGINT, on any rank;
    `step` then writes a checkpoint and raises `Stopped`, on every rank.

    Raises, on every rank and before any work: ValueError for arguments that cannot work or differ between
    ranks, TypeError for an object without a state dict, OSError for a directory that cannot be written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        comm: Communicator,
        *,
        every: int | None = None,
        keep: int = 3,
        **objects: Any,
    ) -> None:
        for name, number in (("every", every), ("keep", keep)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        for name, thing in objects.items():
            if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
                raise TypeError(f"{name}, a {type(thing).__name__}, has no state_dict and load_state_dict")
        self.directory = None if directory is None else Path(directory)
        self.comm, self.every, self.keep, self.objects = comm, every, keep, objects
        self.steps = 0  #: steps done, those before a resume included
        self._writing: Request | None = None
        self._copies: dict[str, Array] = {}
        self._blob = b""  # of the checkpoint that is being loaded
        self._others = ""  # the newest checkpoint in the directory, unless resume has been called
        self._remember_loaders()
        if threading.current_thread() is threading.main_thread():
            self._hook, sys.excepthook = sys.excepthook, self._failed
        if self.directory is None:
            return
        mine = (str(directory), every, keep, list(objects))
        for rank, theirs in enumerate(everyone := comm.all_gather_object(mine)):
            if theirs != everyone[0]:
                raise ValueError(f"ranks disagree about a checkpoint: rank 0: {everyone[0]}, rank {rank}: {theirs}")
        self._others = self._on_rank_0(self._prepare)
        atexit.register(self.close)
        self._set_stoppable(True)

    # -- going on --------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Load the newest checkpoint that is whole; False where there is none. All ranks call this.

        Damaged ones are named on standard error and skipped. Raises, on every rank: RuntimeError where all are
        damaged; FileNotFoundError where rank 0 does not see the one that another host sees; ValueError, before
        anything is changed, where it was made with another seed, other microbatches or other objects, or does
        not fit a model, with the names of the parameters. The threads per rank become those of the checkpoint.
        """
        if self.directory is None:
            return False
        self._others = ""
        found = self._on_rank_0(self._newest)
        self._check_other_hosts(found and found[0])
        if found is None:
            self._say(f"no checkpoint in {self.directory} yet: starts from the beginning")
            return False
        name, content, nbytes = found
        self.load(self.directory / name, content, self._of_rank_0(nbytes))
        self._say(f"resumed from {self.directory / name}, after step {self.steps}")
        return True

    def load(self, folder: Path, content: dict[str, Any], blob: bytes) -> None:
        """Load what `files.read` has read from a checkpoint's folder."""
        states = unpack(content["objects"], load_arrays(blob))
        self._check(str(folder), content, states)
        for which, thing in self.objects.items():
            thing.load_state_dict(states[which])
            if which in content["positions"]:
                thing.position = unpack(content["positions"][which], {})
        key.move_to(content["random"]["step"], key.microbatch)
        vars(key).update(content["random"])
        self.steps = content["step"]
        self._remember_loaders()
        self._keep_threads(content["threads"])

    def _newest(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, content and bytes of the newest checkpoint that is whole; what is in the bytes is kept aside."""
        assert self.directory is not None
        damaged = []
        for _, folder in checkpoints(self.directory):
            try:
                content, self._blob = read(folder)
                return folder.name, content, len(self._blob)
            except Damaged as reason:
                damaged.append(f"{folder.name} is damaged ({reason})")
                self._say(f"{self.directory / damaged[-1]} and skipped")
        if damaged:
            raise RuntimeError(
                f"no checkpoint in {self.directory} can be used: {'; '.join(damaged)}; "
                "remove them, or choose another folder, to start from the beginning"
            )
        return None

    def _of_rank_0(self, nbytes: int) -> bytes:
        """The bytes that rank 0 has read, on every rank."""
        blob, self._blob = self._blob, b""
        if self.comm.size == 1:
            return blob
        data = np.frombuffer(blob, np.uint8).copy() if blob else np.empty(nbytes, np.uint8)
        self.comm.broadcast_(data)
        return data.tobytes()

    def _check_other_hosts(self, name: str | None) -> None:
        """Raise FileNotFoundError on every rank if rank 0 has found less than is there on another host."""
        assert self.directory is not None
        try:
            seen = checkpoints(self.directory) if self.comm.local_rank == 0 else []
        except FileNotFoundError:
            seen = []
        mine = (seen[0][1].name if seen else "", self.comm.host)
        newest, host = max(everyone := self.comm.all_gather_object(mine))
        if newest > max(name or "", everyone[0][0]):
            raise FileNotFoundError(
                f"host {host} has {newest} in {self.directory}, and rank 0 on {everyone[0][1]} does not see it: the "
                f"hosts do not share this folder; use one that they share, or start rank 0 on {host}"
            )

    def _check(self, where: str, content: dict[str, Any], states: dict[str, Any]) -> None:
        """Raise ValueError if what is here cannot go on from this checkpoint."""
        if content["format"] != FORMAT:
            raise ValueError(f"{where} has format {content['format']}, this dtrain reads format {FORMAT}")
        if set(states) != set(self.objects):
            raise ValueError(f"{where} holds {', '.join(states)}; the Checkpointer was given {', '.join(self.objects)}")
        settings = {"microbatches": self.comm.microbatches, "seed": key.seed}
        for setting, here in settings.items():
            saved = content["random"]["seed"] if setting == "seed" else content[setting]
            if saved != here:
                raise ValueError(
                    f"{where} was made with {setting}={saved}, this job has {here}, and would go on differently; "
                    f"give the job {setting}={saved}"
                )
        for which, thing in self.objects.items():
            if isinstance(thing, Module):
                own, saved = _shapes(thing.state_dict()), _shapes(states[which])
                wrong = [
                    f"{n}: {saved.get(n, 'nothing')} there, {own.get(n, 'nothing')} here"
                    for n in {**own, **saved}
                    if own.get(n) != saved.get(n)
                ]
                if wrong:
                    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
                    raise ValueError(f"{where} does not fit {which}: {'; '.join(wrong[:5])}{more}")
        if content["versions"] != versions():
            made = {n: content["versions"].get(n, "unknown") for n in versions()}
            changed = [f"{n} {v}" for n, v in made.items() if versions()[n] != v]
            self._say(f"{where} was made with {', '.join(changed)}: the last bits may differ from now on")

    def _keep_threads(self, threads: int | None) -> None:
        if threads is None or threads == self.comm.threads:
            return
        self._say(f"goes on with {threads} threads per rank, as the checkpoint was made, not {self.comm.threads}")
        self.comm.settle_threads(threads)

    # -- writing ---------------------------------------------------------------------------------

    def step(self) -> None:
        """A step is done, on every rank: write what is due, leave where the job was asked to.

        Raises OSError where the last checkpoint could not be written, RuntimeError where the directory holds
        checkpoints and `resume` was not called, `Stopped` on every rank after the same step.
        """
        if self._others:
            raise RuntimeError(
                f"{self.directory} holds the checkpoints of an earlier run, up to {self._others}; "
                "resume() from them before the first step, or choose another folder"
            )
        self.steps += 1
        self._remember_loaders()
        if self.directory is None:
            return
        if self._writing is not None and self._writing.done():
            self._finish_writing()
        stopping = self._asked_to_stop()
        if stopping or (self.every and self.steps % self.every == 0):
            self.save()
        if stopping:
            # Signals still only ask: a launcher may send some to the ranks that are left when the first has ended.
            atexit.unregister(self.close)
            self._finish_writing()
            self._say(f"asked to stop: step {self.steps} is done and saved in {self.directory}; leaves with {STOPPED}")
            raise Stopped(STOPPED)

    def save(self) -> None:
        """Copy the state as it is now, and write it while training goes on. All ranks call this, between two steps.

        Waits for the checkpoint before. Raises OSError where that could not be written.
        """
        for thing in self.objects.values():
            if hasattr(thing, "consolidate_state_dict"):
                thing.consolidate_state_dict()
        if self.comm.rank != 0 or self.directory is None:
            return
        self._finish_writing()
        content, arrays = self._state()
        kept, self._copies = self._copies, {}
        for name, array in arrays.items():
            copy = kept.get(name)
            if copy is None or copy.shape != array.shape or copy.dtype != array.dtype:
                copy = np.empty(array.shape, array.dtype)
            copy[...] = array
            self._copies[name] = copy
        self._writing = Request(self._write, self.directory, self.steps, content, self._copies)
        threading.Thread(target=self._writing.run, name="checkpoint").start()

    def close(self) -> None:
        """Returns when the last checkpoint is on the disk. Raises OSError where it could not be written."""
        atexit.unregister(self.close)
        if sys.excepthook == self._failed:
            sys.excepthook = self._hook
        self._set_stoppable(False)
        self._finish_writing()

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.wait()

    def _write(self, directory: Path, step: int, content: dict[str, Any], arrays: dict[str, Array]) -> None:
        try:
            write(directory, step, content, arrays)
            prune(directory, step, self.keep)
        except Exception as error:  # the safetensors package has errors of its own
            raise OSError(f"the checkpoint of step {step} cannot be written to {directory}: {error}") from error

    def _state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """What a checkpoint consists of: JSON, and arrays that are still those of the objects."""
        arrays: dict[str, Array] = {}
        things = self.objects.items()
        content = {
            "format": FORMAT,
            "step": self.steps,
            "microbatches": self.comm.microbatches,
            "threads": self.comm.threads,
            "random": {name: value for name, value in vars(key).items() if name != "microbatch"},
            "objects": {name: pack(thing.state_dict(), name, arrays) for name, thing in things},
            "positions": {name: pack(t.position, name, {}) for name, t in things if hasattr(t, "position")},
            "versions": versions(),
        }
        return content, arrays

    def _asked_to_stop(self) -> bool:
        seen = [thing.stopping for thing in self.objects.values() if hasattr(thing, "stopping")]
        return any(seen) if seen else any(self.comm.all_gather_object(self.comm.stop_requested))

    # -- failing ---------------------------------------------------------------------------------

    def _remember_loaders(self) -> None:
        """A step ends: the next begins here. In the middle of a step a loader may have gone on."""
        self._loaders = {n: t.state_dict() for n, t in self.objects.items() if isinstance(t, DataLoader)}

    def _failed(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """Nothing has caught an error: where it came in the middle of a step, leave what replays it."""
        if isinstance(error, Exception) and not isinstance(error, RankLost):
            try:
                self._leave_capsule(error)
            except Exception as problem:
                sys.stderr.write(f"dtrain: the step cannot be replayed: {problem}\n")
        self._hook(kind, error, trace)

    def _leave_capsule(self, error: Exception) -> None:
        models = {n: t for n, t in self.objects.items() if isinstance(t, (DistributedDataParallel, DiLoCo))}
        failed = next((n for n, model in models.items() if model.in_step), None)
        in_parts = any(hasattr(thing, "consolidate_state_dict") for thing in self.objects.values())
        describe = partial(describe_failure, error, self.comm.rank)
        if failed is None and not isinstance(error, Divergence):
            return
        if failed is None:
            differs = next(n for n, model in models.items() if getattr(model, "ledger", None) is not None)
            content, arrays = self._before(self.steps)
            content["failure"] = describe(differs, state_hash(models[differs]), until=self.steps)
        elif in_parts or not isinstance(model := models[failed], DistributedDataParallel):
            content, arrays = self._before(self.steps + 1)
            content["failure"] = describe(failed, None, until=self.steps + 1)
        else:
            microbatch = model.rewind()
            content, arrays = self._state()
            content["objects"].update(self._loaders)
            content["random"] |= {"step": model.position["steps"], "calls": 0, "calls_without_grad": 0}
            content["failure"] = describe(failed, gradient_hash(model), microbatch=microbatch)
        self._write_capsule(content, arrays)

    def _before(self, step: int) -> tuple[dict[str, Any], dict[str, Array]]:
        """The newest checkpoint of fewer steps. Raises FileNotFoundError where there is none."""
        if self.directory is None:
            raise FileNotFoundError("the Checkpointer has no directory with a checkpoint to begin from")
        self._finish_writing()
        content, blob = newest_before(self.directory, step)
        return content, load_arrays(blob)

    def _write_capsule(self, content: dict[str, Any], arrays: dict[str, Array]) -> None:
        prefix = f"capsule-rank-{self.comm.rank}-"
        folder = write(self.directory or Path.cwd(), self.steps, content, arrays, prefix)
        # In one piece: other ranks may write at the same time.
        sys.stderr.write(f"dtrain: to replay this step in one process: python -m launch replay {folder}\n")
        sys.stderr.flush()

    # -- ranks -----------------------------------------------------------------------------------

    def _prepare(self) -> str:
        """Make the directory ready; the name of the newest checkpoint in it."""
        assert self.directory is not None
        models = [thing.state_dict() for thing in self.objects.values() if isinstance(thing, Module)]
        prepare(self.directory, sum(t.array.nbytes for model in models for t in model.values()))
        there = checkpoints(self.directory)
        return there[0][1].name if there else ""

    def _on_rank_0(self, function: Callable[[], T]) -> T:
        """What function() returns on rank 0, on every rank; or raises there, on every rank."""
        result: Any = None
        error: Exception | None = None
        if self.comm.rank == 0:
            try:
                result = function()
            except Exception as problem:
                error = problem
        result, error = self.comm.broadcast_object((result, error))
        if error is not None:
            raise error
        return result

    def _set_stoppable(self, stoppable: bool) -> None:
        if self.comm.on_stoppable is not None and self.directory is not None:
            self.comm.on_stoppable(stoppable)

    def _say(self, text: str) -> None:
        if self.comm.rank == 0:
            print(f"dtrain: {text}", file=sys.stderr, flush=True)


def _shapes(state: dict[str, Any]) -> dict[str, str]:
    return {name: f"{value.dtype} {tuple(value.shape)}" for name, value in state.items()}
