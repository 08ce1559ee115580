"""PyTorch's list of optimizers (`optim_db`) beside dtrain's: ten steps in float64, states exchanged halfway, errors.

PyTorch runs every configuration in its plain form, on the CPU; dtrain with the flags of the configuration.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

import dtrain
from dtrain import nn, optim

__all__ = ["check", "check_error", "configurations", "differentiable", "errors", "names"]

STEPS = 10
FLAGS = ("foreach", "fused", "capturable", "differentiable")  # other ways of computing the same
MATRICES = [(5, 3), (3, 4), (4, 4)]
SHAPES = [*MATRICES, (4,), (), (2, 1, 3)]
INFOS = {info.name: info for info in optim_db if not info.only_supports_sparse_grads}


def names() -> list[str]:
    """The dense optimizers."""
    return sorted(INFOS)


def configurations(name: str) -> dict[str, dict[str, Any]]:
    """What the list has for the optimizer on any device, and each of it with every flag."""
    info, found = INFOS[name], {}
    with plain():
        for device in ("cpu", "cuda", "mps"):
            for given in info.optim_inputs_func(device):
                found[given.desc] = given.kwargs
                for flag in set(info.supported_impls) - {"differentiable"}:
                    holds_tensors = any(isinstance(v, (torch.Tensor, tuple)) for v in given.kwargs.values())
                    if flag == "fused" or given.kwargs.get("capturable") or not holds_tensors:
                        found[f"{given.desc}, {flag}"] = {**given.kwargs, flag: True}
    return found


def errors(name: str) -> dict[str, Any]:
    """The list's error inputs."""
    info = INFOS[name]
    return {e.optimizer_error_input.desc: e for e in info.optim_error_inputs_func("cpu", torch.float64)}


def differentiable(name: str) -> bool:
    """Whether PyTorch's optimizer has the flag differentiable."""
    return "differentiable" in INFOS[name].supported_impls


@contextmanager
def plain() -> Iterator[None]:
    """Numbers in PyTorch's states in double precision; nobody warns."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)


def twin(value: Any) -> Any:
    """dtrain's form of an option, or of parameters."""
    if isinstance(value, torch.nn.Parameter):
        return nn.Parameter(dtrain.Tensor(value.detach().numpy().copy()))
    if isinstance(value, torch.Tensor):
        return dtrain.Tensor(value.detach().numpy().copy())
    if isinstance(value, dict):
        return {k: twin(v) for k, v in value.items()}
    return type(value)(twin(v) for v in value) if isinstance(value, (list, tuple)) else value


class Side:
    """One of the two libraries: parameters, the optimizer of them, and a loss that has to do with all of them."""

    def __init__(self, name: str, kwargs: dict[str, Any], tensor: Any, parameter: Any, library: Any) -> None:
        rng = np.random.default_rng(5)
        shapes = MATRICES if name == "Muon" else SHAPES
        self.params = [parameter(tensor(np.array(rng.standard_normal(s)))) for s in shapes]
        self.scales = [tensor(np.array(rng.uniform(0.5, 2, s))) for s in shapes]
        self.targets = [tensor(np.array(rng.standard_normal(s))) for s in shapes]
        groups: list[Any] = self.params
        if INFOS[name].supports_param_groups:
            groups = [{"params": self.params[:2]}, {"params": self.params[2:], "lr": 0.02}]
        self.make = lambda: getattr(library, name)(groups, **kwargs)
        self.optimizer = self.make()

    def step(self, used: list[bool]) -> float:
        """One step, in which some of the parameters are not used."""

        def closure() -> Any:
            self.optimizer.zero_grad()
            loss = 0
            for p, scale, target, use in zip(self.params, self.scales, self.targets, used, strict=True):
                if use:
                    loss = loss + ((p * scale - target) ** 2).sum() + p.tanh().sum()
            if used[0] and used[1]:
                loss = loss + (self.params[0] @ self.params[1]).sin().sum()
            loss.backward()
            return loss

        return float(self.optimizer.step(closure))


def sides(name: str, kwargs: dict[str, Any]) -> tuple[Side, Side]:
    """(dtrain's, PyTorch's)"""
    theirs = {k: v for k, v in kwargs.items() if k not in FLAGS}
    return (
        Side(name, twin(kwargs), dtrain.Tensor, nn.Parameter, optim),
        Side(name, copy.deepcopy(theirs), torch.from_numpy, torch.nn.Parameter, torch.optim),
    )


def check(name: str, kwargs: dict[str, Any], missing: bool, rtol: float = 1e-6) -> None:
    """Ten steps beside PyTorch's; `missing`: some parameters have no gradient in some steps.

    Halfway each gets a new optimizer with the state of the other one. Raises AssertionError for what differs.

    LBFGS makes many iterations a step, and from history of other losses, or far from a minimum, they may run away from
    any rounding: it always uses the same parameters, and is followed as long as PyTorch follows itself when started a
    rounding aside, three steps at least.
    """
    lbfgs = name == "LBFGS"
    with plain():
        a, b = sides(name, kwargs)
        aside = sides(name, kwargs)[1] if lbfgs else None
        if aside is not None:
            aside.params[0].data *= 1 + 4e-16
        for step in range(STEPS):
            used = [not missing or ((0 if lbfgs else step) + i) % 3 > 0 for i in range(len(a.params))]
            if aside is not None:
                aside.step(used)
            loss, expected = a.step(used), b.step(used)
            if aside is not None and step > 2 and distance(aside, b) > 1e-9:
                return
            assert loss == float_close(expected, rtol), f"loss of step {step}"
            for p, q in zip(a.params, b.params, strict=True):
                message = f"parameter {tuple(q.shape)} after step {step}"
                np.testing.assert_allclose(p.array, q.detach().numpy(), rtol, 1e-9, err_msg=message)
            if step == (1 if lbfgs else STEPS // 2):
                compare_states(a, b, rtol)
                counted = any("step" in values for values in b.optimizer.state_dict()["state"].values())
                of_a, of_b = a.optimizer.state_dict(), b.optimizer.state_dict()
                a.optimizer, b.optimizer = a.make(), b.make()
                a.optimizer.load_state_dict(of_b)
                b.optimizer.load_state_dict({**of_b, "state": torchs(of_a["state"])})
        compare_states(a, b, rtol, counted)


def distance(a: Side, b: Side) -> float:
    """The largest difference of the parameters of two runs of PyTorch."""
    return max(float((p - q).abs().max()) for p, q in zip(a.params, b.params, strict=True))


def float_close(value: float, rtol: float) -> Any:
    """Equal to what is close."""
    import pytest

    return pytest.approx(value, rel=rtol, abs=1e-9)


def torchs(value: Any) -> Any:
    """A state of dtrain's with PyTorch's tensors: its counts and other numbers, too."""
    if isinstance(value, dict):
        return {k: torchs(v) for k, v in value.items()}
    if isinstance(value, list):
        return [torchs(v) for v in value]
    if isinstance(value, dtrain.Tensor):
        return torch.from_numpy(np.array(value.numpy()))
    return value


def compare_states(a: Side, b: Side, rtol: float, counted: bool = True) -> None:
    """The names, the shapes and the values of both states. Of PyTorch's, what is None counts as absent.

    counted: whether PyTorch counts steps, which may be in its state because dtrain does.
    """
    ours, theirs = a.optimizer.state_dict(), b.optimizer.state_dict()
    for mine, other in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert mine["params"] == other["params"]
        assert set(other) - set(FLAGS) <= set(mine), f"options {set(other) - set(mine)} are missing"
    for i, values in theirs["state"].items():
        values = {k: v for k, v in values.items() if v is not None and k != "al" and (counted or k != "step")}
        mine = ours["state"].get(i, {})
        assert set(values) <= set(mine), f"state {set(values) - set(mine)} of parameter {i} is missing"
        for name, value in values.items():
            if isinstance(value, list) or name in ("H_diag", "prev_flat_grad", "d"):
                continue  # LBFGS: at a minimum, what differences of roundings give
            if isinstance(value, torch.Tensor):
                value = value.detach().numpy()
            np.testing.assert_allclose(
                np.array(getattr(mine[name], "array", mine[name])), np.array(value), rtol, 1e-9, err_msg=name
            )


def check_error(name: str, given: Any) -> None:
    """An error input raises where PyTorch raises, or before."""
    arguments = given.optimizer_error_input
    with plain():
        params = arguments.params
        if params is None:
            params = [torch.nn.Parameter(torch.randn(1, 1))]
        gradients = [p.grad for p in params if isinstance(p, torch.Tensor)] if isinstance(params, list) else []
        optimizer = getattr(optim, name)(shared(params, {}), **twin(arguments.kwargs))
        if given.error_on is OptimizerErrorEnum.STEP_ERROR:
            for p, g in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
                p.grad = None if g is None else dtrain.Tensor(g.numpy().copy())
            optimizer.step()


def shared(params: Any, made: dict[int, Any]) -> Any:
    """dtrain's form of parameters; one that is there twice stays one."""
    if isinstance(params, torch.Tensor):
        if id(params) not in made:
            made[id(params)] = nn.Parameter(dtrain.Tensor(params.detach().numpy().copy()))
        return made[id(params)]
    if isinstance(params, dict):
        return {k: shared(v, made) for k, v in params.items()}
    return type(params)(shared(v, made) for v in params) if isinstance(params, (list, tuple)) else params
