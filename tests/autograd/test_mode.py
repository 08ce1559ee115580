"""no_grad, enable_grad and set_grad_enabled: as blocks, as decorators, in generators and threads."""

from __future__ import annotations

import threading

import pytest

import dtrain
from dtrain import enable_grad, is_grad_enabled, no_grad, set_grad_enabled


def test_blocks_nest_and_end_with_exceptions():
    with no_grad():
        assert not is_grad_enabled()
        with enable_grad():
            assert is_grad_enabled()
            with no_grad():
                assert not is_grad_enabled()
            assert is_grad_enabled()
        with pytest.raises(ValueError, match="x"), enable_grad():
            raise ValueError("x")
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_one_scope_object_can_be_entered_again():
    scope = no_grad()
    with scope, scope:
        assert not is_grad_enabled()
    assert is_grad_enabled()


@pytest.mark.parametrize("decorate", [no_grad(), no_grad, lambda f: set_grad_enabled(False)(f)])
def test_decorators(decorate):
    @decorate
    def inside(a: int, *, b: int = 2) -> tuple[bool, int]:
        """Its text."""
        if a:
            return is_grad_enabled(), a + b
        raise ValueError("as asked")

    assert is_grad_enabled()
    assert inside(1, b=3) == (False, 4)
    assert inside.__doc__ == "Its text."
    with pytest.raises(ValueError, match="as asked"):
        inside(0)
    assert is_grad_enabled()


def test_decorated_generator_leaves_its_consumer_alone():
    seen = []

    @no_grad()
    def batches():
        for i in range(2):
            seen.append(is_grad_enabled())
            yield i

    for _ in batches():
        assert is_grad_enabled()
        with enable_grad():
            pass
    assert seen == [False, False]
    assert is_grad_enabled()


def test_set_grad_enabled_as_function_and_block():
    set_grad_enabled(False)
    try:
        assert not is_grad_enabled()
        with set_grad_enabled(True):
            assert is_grad_enabled()
        assert not is_grad_enabled()
    finally:
        set_grad_enabled(True)
    assert is_grad_enabled()


def test_every_thread_has_its_own_mode():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_nothing_is_recorded():
    x = dtrain.ones(2, requires_grad=True)
    with no_grad():
        y = x * 2
        z = dtrain.ones(2, requires_grad=True)
    assert not y.requires_grad
    assert y.grad_fn is None
    assert z.requires_grad
    with no_grad(), enable_grad():
        assert (x * 2).requires_grad
