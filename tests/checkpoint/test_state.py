"""State dicts as JSON and arrays, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain.checkpoint.state import pack, unpack

VALUES: dict[str, Any] = {
    "numbers": [1, -(2**70), 0.1, 1e-300, float("inf"), True, None, "text", ""],
    "tuples": ((0.9, 0.999), [()], {"a": (1,)}),
    "keys": {0: "a", 1.5: "b", (1, 2): "c", None: "d", "$tensor": "e"},
    "looks like a mark": {"$dict": [1], "$tuple": {"$array": "x"}},
    "empty": {"dict": {}, "list": []},
}


@pytest.mark.parametrize("name", VALUES)
def test_json_and_back(name: str) -> None:
    arrays: dict[str, Any] = {}
    text = json.dumps(pack(VALUES[name], "x", arrays))
    got = unpack(json.loads(text), arrays)
    assert got == VALUES[name] and repr(got) == repr(VALUES[name]) and not arrays


def test_arrays_keep_their_kind_and_are_not_copied() -> None:
    a, b, c = np.arange(3.0), np.ones((2, 0), np.uint8), np.array(2.0)
    value = {"a.b": dtrain.from_numpy(a), "a": {"b": b}, "list": [c, (dtrain.tensor(1),)]}
    arrays: dict[str, Any] = {}
    packed = json.loads(json.dumps(pack(value, "x", arrays)))
    assert len(arrays) == 4 and arrays["x.a.b"] is a and arrays["x.a.b_"] is b
    got = unpack(packed, arrays)
    assert isinstance(got["a.b"], dtrain.Tensor) and got["a"]["b"] is b
    assert got["list"][0] == 2 and got["list"][1][0].dtype == np.int64


def test_numbers_of_numpy_are_numbers() -> None:
    got = pack([np.float32(0.1), np.int64(3), np.bool_(True)], "x", {})
    assert got == [float(np.float32(0.1)), 3, True] and [type(v) for v in got] == [float, int, bool]


def test_what_cannot_be_held_is_named() -> None:
    with pytest.raises(TypeError, match=r"schedule\.lambdas\.1 is a function, which a checkpoint cannot hold"):
        pack({"lambdas": [None, lambda: 0]}, "schedule", {})
