"""`python -m tests.parity.show gather nn.Linear` runs the names that begin so and shows every failure in full."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import torch

from tests.parity import modules, ops
from tests.parity.outcome import Outcome

LARGE = 40


def text(value: Any) -> str:
    """A sample in a few lines: tensors with their values where they are small."""
    if isinstance(value, torch.Tensor):
        head = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        return head if value.numel() > LARGE or value.is_meta else f"{head} {value.detach().tolist()}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(text, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {text(v)}' for k, v in value.items())}}}"
    if hasattr(value, "kwargs"):  # a sample
        first = (value.input,) if hasattr(value, "input") else ()
        return f"{text((*first, *value.args))} {text(value.kwargs) if value.kwargs else ''}"
    return repr(value)


def show(label: str, error: BaseException, shown: tuple[Any, ...]) -> None:
    """One failure: the sample, and what went wrong."""
    print(f"\n--- {label}")
    for value in shown:
        print(text(value))
    if type(error).__name__ == "Mismatch":
        print(error)
    else:
        print("".join(traceback.format_exception(error, limit=-6)))


def main(starts: tuple[str, ...]) -> None:
    """Show all names that begin so."""
    for module in (modules, ops):
        for name in module.names():
            if name.startswith(starts):
                print(f"=== {name}")
                outcome: Outcome = module.run(name, watch=show)
                for kind in ("samples", "errors", "gradgrad"):
                    tally = getattr(outcome, kind)
                    print(f"{kind}: {tally.passed} of {tally.total}" if outcome.provided else "not provided")
                if outcome.out:
                    print(f"out of scope: {outcome.out}")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or ("",))
