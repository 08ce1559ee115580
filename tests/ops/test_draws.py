"""In-place draws belong to the microbatch, as all others do: they do not depend on what a rank did before."""

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.backend.random import Purpose, key
from dtrain.ops.draws import drawing


def drawn(method, grad):
    key.begin(3, 5)
    with dtrain.set_grad_enabled(grad):
        return getattr(dtrain.empty(4), method)().numpy().tobytes()


@pytest.mark.parametrize("method", ["normal_", "uniform_"])
@pytest.mark.parametrize("grad", [True, False])
def test_draws_in_place_are_the_microbatchs(method, grad):
    dtrain.manual_seed(1)
    first = drawn(method, grad)
    nn.Linear(3, 3)  # initial weights, a count of their own
    dtrain.empty(2).normal_()
    assert drawn(method, grad) == first
    key.begin(3, 6)
    with dtrain.set_grad_enabled(grad):
        assert getattr(dtrain.empty(4), method)().numpy().tobytes() != first


def test_draws_in_place_are_those_of_randn():
    dtrain.manual_seed(1)
    want = dtrain.randn(5)
    dtrain.manual_seed(1)
    assert (dtrain.empty(5).normal_() == want).all()


def test_initial_weights_do_not_depend_on_other_draws():
    dtrain.manual_seed(1)
    want = nn.Linear(3, 3).weight.detach().clone()
    dtrain.manual_seed(1)
    dtrain.empty(2).normal_()
    assert (nn.Linear(3, 3).weight == want).all()


def test_a_draw_is_of_the_mode_in_which_it_was_asked_for():
    """With gradients off or on, whenever it is made: a captured step makes it again."""
    with dtrain.no_grad():
        without = drawing()
    assert without.args == (Purpose.NO_GRAD,) and drawing().args == (Purpose.GRAPH,)


@pytest.mark.parametrize("seed", [0, 5, -3, (1 << 63) + 7])
def test_a_state_of_the_random_streams_is_gone_back_to(seed: int) -> None:
    def drawn() -> list[np.ndarray]:
        layer = dtrain.nn.Linear(2, 2)
        with dtrain.no_grad():
            noise = dtrain.randn(3)
        return [dtrain.rand(3).numpy(), noise.numpy(), layer.weight.detach().numpy()]

    dtrain.manual_seed(seed)
    before = dtrain.get_rng_state()
    first = drawn()
    state = dtrain.get_rng_state()
    second = drawn()
    dtrain.set_rng_state(state)
    assert all(map(np.array_equal, drawn(), second))
    dtrain.set_rng_state(before)
    assert all(map(np.array_equal, drawn(), first)) and not any(map(np.array_equal, first, second))
    for wrong in (dtrain.zeros(48), dtrain.zeros(47, dtype=dtrain.uint8)):
        with pytest.raises(ValueError, match="get_rng_state gives"):
            dtrain.set_rng_state(wrong)
    dtrain.manual_seed(0)
