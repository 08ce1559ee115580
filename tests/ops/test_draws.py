"""In-place draws belong to the microbatch, as all others do: they do not depend on what a rank did before."""

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
