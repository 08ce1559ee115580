"""PyTorch's lists of modules and functions with sample inputs, imported without a trace on what else runs here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["functions", "modules", "quiet", "seeded", "why_missing"]


@cache
def why_missing() -> str | None:
    """Why PyTorch's lists cannot be had here; None where they can."""
    try:
        _lists()
    except ImportError as error:
        return f"PyTorch's sample inputs cannot be had ({error}): pip install dtrain[torch]"
    return None


@cache
def _lists() -> tuple[list[Any], list[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hypothesis

        profile = hypothesis.settings.get_current_profile_name()
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db

        hypothesis.settings.load_profile(profile)  # PyTorch loads one of its own
    return module_db, op_db


def modules() -> dict[str, Any]:
    """PyTorch's ModuleInfos by name: "nn.Linear"."""
    return {info.name: info for info in _lists()[0]}


def functions() -> dict[str, Any]:
    """PyTorch's OpInfos by name, a variant behind a dot: "gather", "max.binary"."""
    return {info.full_name: info for info in _lists()[1]}


@contextmanager
def quiet() -> Iterator[None]:
    """PyTorch on one thread, with the attention that it can differentiate twice, and nobody warns."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


def seeded(make: Any, seed: int = 0) -> list[Any]:
    """The samples that `make` yields, the same ones at every call."""
    from torch.testing._internal.common_utils import set_rng_seed

    set_rng_seed(seed)
    return list(make())
