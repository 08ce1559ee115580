"""Every dense optimizer of PyTorch's list, in all configurations; see `tests/parity/optimizers.py`."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("missing", [False, True], ids=["all", "some"])
def test_ten_steps(optimizer_name: str, missing: bool) -> None:
    from tests.parity import optimizers

    for label, kwargs in optimizers.configurations(optimizer_name).items():
        try:
            optimizers.check(optimizer_name, kwargs, missing)
        except Exception as error:
            raise AssertionError(f"{optimizer_name}, {label}: {kwargs}") from error


def test_errors(optimizer_name: str) -> None:
    from tests.parity import optimizers

    for label, given in optimizers.errors(optimizer_name).items():
        try:
            optimizers.check_error(optimizer_name, given)
        except (ValueError, TypeError, RuntimeError):
            continue
        pytest.fail(f"{optimizer_name}, {label}: nothing is raised")


def test_differentiable_is_refused(optimizer_name: str) -> None:
    import dtrain
    from tests.parity import optimizers

    if optimizers.differentiable(optimizer_name):
        make: Any = getattr(dtrain.optim, optimizer_name)
        with pytest.raises(NotImplementedError, match="differentiable=True: updates are made in place"):
            make([dtrain.nn.Parameter(dtrain.ones(2, 2))], differentiable=True)
