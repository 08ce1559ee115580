"""A capsule: a checkpoint of the beginning of a step that failed, and what happened in it.

Where the parameters of ranks differ after a step, its beginning is gone, and where a rank holds a part of the
optimizer's state, it has no whole one to give. Then the checkpoint is the newest one before, and the steps from there
until the failure are run again."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from dtrain.backend import to_numpy
from dtrain.checkpoint.files import Damaged, checkpoints, read
from dtrain.nn.module import Module
from dtrain.parallel import DistributedDataParallel

__all__ = ["describe_failure", "error_text", "gradient_hash", "newest_before", "state_hash"]


def describe_failure(
    error: Exception, rank: int, model: str, digest: str | None, microbatch: int | None = None, until: int | None = None
) -> dict[str, Any]:
    """What a replay runs, and what has to come out.

    model: its name among the checkpoint's objects. digest: of what there is where no error comes. microbatch: the one
    that failed, or None and `until`: the step before which the failure came, where several are run.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return {
        "command": [os.path.abspath(sys.argv[0]), *sys.argv[1:]],
        "module": None if spec is None else spec.name.removesuffix(".__main__"),
        "folder": os.getcwd(),
        "model": model,
        "rank": rank,
        "microbatch": microbatch,
        "error": error_text(error),
        "until": until,
        "hash": digest,
    }


def error_text(error: BaseException) -> str:
    """Type and text of an error, without the rank and host on which it came."""
    text = re.sub(r"\brank \d+( on \S+)?", "the rank", str(error))
    return f"{type(error).__name__}: {text}"


def gradient_hash(model: DistributedDataParallel) -> str:
    """sha256 of the step's gradients, as far as they are there."""
    digest = hashlib.sha256()
    for name, p in model.module.named_parameters():
        if p._flat is not None:
            digest.update(name.encode() + to_numpy(p._flat.grad.array).tobytes())
    return digest.hexdigest()


def state_hash(model: Module) -> str:
    """sha256 of the parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + to_numpy(value.array).tobytes())
    return digest.hexdigest()


def newest_before(directory: Path, step: int) -> tuple[dict[str, Any], bytes]:
    """The newest whole checkpoint of fewer steps, as `read` gives it. Raises FileNotFoundError where there is none."""
    for _, folder in [c for c in checkpoints(directory) if c[0] < step]:
        with suppress(Damaged):  # resume names them
            return read(folder)
    raise FileNotFoundError(f"{directory} holds no whole checkpoint of fewer than {step} steps to begin from")
