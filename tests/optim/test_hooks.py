"""Hooks of an optimizer: around steps and state dicts, in order, and taken away again."""

from __future__ import annotations

from typing import Any

import pytest

import dtrain
from dtrain import nn, optim
from dtrain.parallel import ZeroRedundancyOptimizer


def make(library: Any) -> Any:
    return library.optim.SGD([library.nn.Parameter(library.ones(2))], lr=0.5)


def log_of(library: Any) -> list[str]:
    """What is called when, with hooks of all kinds."""
    optimizer, log = make(library), []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: log.append(f"before {len(args)} {o is optimizer}"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: log.append(f"after {len(args)}"))
    optimizer.register_state_dict_pre_hook(lambda o: log.append("state"))
    optimizer.register_state_dict_pre_hook(lambda o: log.append("state first"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "more": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, state: log.append(f"load {state['more']}"))
    optimizer.register_load_state_dict_post_hook(lambda o: log.append("loaded"))
    with optimizer.register_step_pre_hook(lambda o, args, kwargs: log.append("once")):
        optimizer.step()
    handle = optimizer.register_step_post_hook(lambda o, args, kwargs: log.append("never"))
    handle.remove()
    handle.remove()
    optimizer.step(lambda: 3.0)
    optimizer.load_state_dict(optimizer.state_dict())
    return log


def test_order_is_pytorchs(torch: Any) -> None:
    assert log_of(dtrain) == log_of(torch)


def test_a_hook_replaces_the_closure() -> None:
    optimizer = make(dtrain)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((*args, lambda: 4.0), {}))
    assert optimizer.step() == 4.0
    optimizer.register_step_pre_hook(lambda o, args, kwargs: 3)
    with pytest.raises(RuntimeError, match="must return None or"):
        optimizer.step()


def test_hooks_of_a_sharded_optimizer_see_gathered_parameters() -> None:
    p = nn.Parameter(dtrain.ones(2))
    optimizer, seen = ZeroRedundancyOptimizer([p], optim.SGD, lr=0.5), []
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(p.tolist()))
    p.sum().backward()
    optimizer.step()
    assert seen == [[0.5, 0.5]]
