"""What a rank notes about the collectives that it waits in."""

from __future__ import annotations

import pytest

from dtrain.comm import Waits
from dtrain.comm.waits import Calls


def test_calls_are_counted_and_known_while_they_last() -> None:
    waits, calls = Waits(), Calls(range(3))
    waits.add("all ranks", calls)
    assert not waits.states()["all ranks"].waiting
    with calls("barrier"):
        state = waits.states()["all ranks"]
        assert (state.number, state.what, state.waiting, list(state.ranks)) == (1, "barrier", True, [0, 1, 2])
    with pytest.raises(KeyError), calls("all_gather"):
        raise KeyError
    state = waits.states()["all ranks"]
    assert (state.number, state.what, state.waiting) == (2, "all_gather", False)


def test_names_count_and_what_is_gone_is_forgotten() -> None:
    waits = Waits()
    first, second = Calls([0]), Calls([0])
    waits.add("memory", first)
    waits.add("memory", second)
    assert list(waits.states()) == ["memory", "memory (2)"]
    del first
    third = Calls([0])
    waits.add("memory", third)
    assert list(waits.states()) == ["memory (2)", "memory (3)"]
