"""The backward walk: its order, its sums, what it frees, and what it says when it cannot go on."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Joint, Tensor, backward, grad, on_backward_end, op
from dtrain.nn import functional as F


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values, np.float64), requires_grad=True)


def test_parameters_are_final_before_earlier_layers_are_differentiated():
    """With the plain reverse depth-first order all parameters would come last."""
    seen: list[str] = []

    def traced(name: str) -> Any:
        @op
        def layer(x: Any, w: Any, b: Any) -> Any:
            def pullback(g: Any, needs: tuple[bool, ...]) -> list[Any]:
                seen.append(name)
                return [g @ w.T, x.T @ g, g.sum(0)]

            return x @ w + b, Joint(pullback)

        return layer

    rng = np.random.default_rng(0)
    y = Tensor(rng.standard_normal((2, 3)))
    for i in range(4):
        w, b = Tensor(rng.standard_normal((3, 3)), requires_grad=True), Tensor(np.zeros(3), requires_grad=True)
        for name, p in ((f"w{i}", w), (f"b{i}", b)):
            p.register_hook(lambda g, name=name: seen.append(name))
        y = F.relu(traced(f"OP{i}")(y, w, b))
    y.sum().backward()
    assert seen == [name for i in (3, 2, 1, 0) for name in (f"OP{i}", f"w{i}", f"b{i}")]


def test_order_with_modules_and_a_skip_connection():
    seen: list[str] = []
    net = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("first", "side", "last")})
    for name, p in net.named_parameters():
        p.register_hook(lambda g, name=name: seen.append(name))
    h = net["first"](dtrain.ones(2, 3))
    net["last"](F.relu(net["side"](h)) + h).sum().backward()
    assert [{*seen[i : i + 2]} for i in (0, 2, 4)] == [
        {f"{layer}.weight", f"{layer}.bias"} for layer in ("last", "side", "first")
    ]


def test_diamonds_add_and_are_walked_once():
    x, calls = leaf(2), []

    @op
    def counted(a: Any) -> Any:
        return a * 3, lambda g: (calls.append(1), g * 3)[1]

    y = counted(x)
    z = y
    for _ in range(20):  # 2^20 paths
        z = z + z
    (z * 1 + y).backward()
    assert x.grad.item() == 3 * (2**20 + 1)
    assert len(calls) == 1


def test_first_contribution_is_not_changed_in_place():
    """x + y hands one gradient array to both: adding to one must not change the other."""
    x, y = leaf(1, 1), leaf(1, 1)
    s = x + y
    (s * 1 + x.exp() * 0 + x * 5).backward(Tensor(np.ones(2)))
    assert (x.grad.tolist(), y.grad.tolist()) == ([6, 6], [1, 1])
    a, b = leaf(1, 1), leaf(1, 1)
    u, v = a * 1, b * 1
    t = u + v
    (t + u * 2 + u * 3 + v * 10).backward(Tensor(np.ones(2)))
    assert (a.grad.tolist(), b.grad.tolist()) == ([6, 6], [11, 11])


def test_shared_parameter_gets_one_final_gradient():
    w, seen = leaf(2), []
    w.register_hook(lambda g: seen.append(g.item()))
    (w * (w * (w * 1))).sum().backward()
    assert w.grad.item() == 12
    assert seen == [12]


def test_deep_graph_needs_no_recursion():
    x = leaf(1)
    y = x
    for _ in range(5000):
        y = y + x
    y.backward()
    assert x.grad.item() == 5001
    del y
    gc.collect()


def test_second_walk_names_the_op():
    x = leaf(1, 2)
    y = (x * x).exp().sum()
    y.backward()
    for again in (y.backward, lambda: grad(y, x)):
        with pytest.raises(RuntimeError, match=r"op 'sum' a second time.*retain_graph=True"):
            again()
    assert x.grad is not None
    z = (x * x).exp()
    z.sum().backward()
    with pytest.raises(RuntimeError, match="op 'exp' a second time"):
        (z * 2).sum().backward()


def test_refused_walk_leaves_the_other_branch_usable():
    w, x = leaf(1), leaf(1)
    fresh, used = w * 2, x.exp()
    used.sum().backward()
    for mixed in (fresh + used, used + fresh):
        with pytest.raises(RuntimeError, match="second time"):
            mixed.sum().backward()
    fresh.sum().backward()
    assert w.grad.item() == 2


def test_retain_graph_allows_another_walk():
    x = leaf(1, 2)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [6, 12]


def test_exception_in_a_pullback_leaves_the_rest_usable():
    x, w = leaf(1), leaf(3)
    fail = [True]

    @op
    def shaky(a: Any) -> Any:
        def pullback(g: Any) -> Any:
            if fail[0]:
                raise ArithmeticError("as asked")
            return g * 2

        return a * 2, pullback

    h = x * w
    y = (shaky(h) + h * 5 + w).sum()
    with pytest.raises(ArithmeticError, match="as asked"):
        y.backward(retain_graph=True)
    x.grad = w.grad = None
    fail[0] = False
    y.backward()
    assert (x.grad.item(), w.grad.item()) == (21, 8)
    x.grad = None
    (x * 4).backward()
    assert x.grad.item() == 4


def test_exception_in_a_hook_leaves_the_rest_usable():
    x = leaf(1)
    handle = x.register_hook(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (x * 2).backward()
    handle.remove()
    x.grad = None
    (x * 2 + x).backward()
    assert x.grad.item() == 3


def test_grad_returns_and_does_not_accumulate():
    x, w, other = leaf(1, 2), leaf(3, 4), leaf(5)
    h = x * w
    y = (h * h).sum()
    (gh,) = grad(y, h, retain_graph=True)
    gx, gw = grad(y, [x, w], retain_graph=True)
    assert (gh.tolist(), gx.tolist(), gw.tolist()) == ([6, 16], [18, 64], [6, 32])
    with pytest.raises(RuntimeError, match=r"input 1 was not used .*allow_unused=True"):
        grad(y, [x, other], retain_graph=True)
    gx, none = grad(y, [x, other], allow_unused=True, retain_graph=True)
    assert (gx.tolist(), none) == ([18, 64], None)
    (gx,) = grad(y, x, grad_outputs=Tensor(np.array(10.0)))
    assert gx.tolist() == [180, 640]
    assert (x.grad, w.grad, h.grad) == (None, None, None)


def test_grad_of_an_input_below_another_input():
    x = leaf(1, 2)
    h = x * x
    gx, gh = grad((h * h + x).sum(), [x, h])
    assert (gx.tolist(), gh.tolist()) == ([5, 33], [2, 8])


def test_grad_of_several_outputs_and_repeated_roots():
    x = leaf(1, 2)
    (g,) = grad([x * 2, x * x], x, [Tensor(np.ones(2)), Tensor(np.array([10.0, 10.0]))])
    assert g.tolist() == [22, 42]
    y = (x * 3).sum()
    backward([y, y, x], [None, None, Tensor(np.ones(2))])
    assert x.grad.tolist() == [7, 7]


def test_backward_errors():
    x = leaf(1, 2)
    with pytest.raises(RuntimeError, match=r"one element; this one has shape \(2,\)"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"the gradient has shape \(3,\), its tensor \(2,\)"):
        (x * 2).backward(Tensor(np.ones(3)))
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        dtrain.ones(1).backward()
    with pytest.raises(ValueError, match="1 tensors but 2 gradients"):
        backward([x.sum()], [None, None])


def test_outputs_of_an_op_with_several():
    x = Tensor(np.arange(6.0), requires_grad=True)
    a, b, c = x.split(2)
    (a * 2).sum().backward(retain_graph=True)
    assert x.grad.tolist() == [2, 2, 0, 0, 0, 0]
    x.grad = None
    ((c * c).sum() + (a * 3).sum() + (c * 1).sum()).backward()
    assert x.grad.tolist() == [3, 3, 0, 0, 9, 11]
    assert b.requires_grad


def test_nodes_are_freed_as_the_walk_leaves_them():
    x, alive, refs = leaf(1, 2), [], []

    def watched(a: Tensor) -> Tensor:
        saved = np.ones(2)
        refs.append(weakref.ref(saved))

        @op
        def watch(v: Any) -> Any:
            def pullback(g: Any) -> Any:
                alive.append([r() is not None for r in refs])
                return g * saved

            return v * saved, pullback

        return watch(a)

    y = watched(watched(watched(x))).sum()
    del_names = y  # the root stays; what it was computed with goes
    del_names.backward()
    # When the last op runs, those that were differentiated before it have been freed.
    assert alive[-1] == [True, False, False] or alive[-1] == [True, True, False]
    assert [r() for r in refs] == [None] * 3


def test_graph_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        x = leaf(1, 2)
        y = (x * x).exp()
        node = weakref.ref(y.node)
        y.sum()
        del y
        assert node() is None
        z = (x * 2).sum()
        array = weakref.ref(z)
        z.backward()
        del z
        assert array() is None
    finally:
        gc.enable()


def test_frozen_inputs_get_nothing_and_their_pullbacks_do_not_run():
    ran = []

    @op
    def product(a: Any, b: Any) -> Any:
        return a * b, (lambda g: (ran.append("a"), g * b)[1], lambda g: (ran.append("b"), g * a)[1])

    x, frozen = leaf(2), Tensor(np.array([3.0]))
    product(x, frozen).backward()
    product(b=x, a=frozen).backward()
    assert (x.grad.item(), frozen.grad, ran) == (6, None, ["a", "b"])


def test_freezing_after_the_forward_pass_stops_accumulation():
    x, w = leaf(1), leaf(2)
    y = x * w
    w.requires_grad_(False)
    y.backward()
    assert (x.grad.item(), w.grad) == (2, None)


def test_callbacks_run_once_the_walk_has_ended():
    x, seen = leaf(1), []
    x.register_hook(lambda g: on_backward_end(lambda: seen.append(x.grad.item())))
    (x * 5).sum().backward()
    assert seen == [5]
    with pytest.raises(RuntimeError, match="no backward walk is under way"):
        on_backward_end(print)


def test_walks_in_several_threads():
    def work(results: list[float], i: int) -> None:
        w = Tensor(np.full(50, float(i)), requires_grad=True)
        for _ in range(20):
            w.grad = None
            (w * w * w).sum().backward()
        results[i] = float(w.grad.array[0])

    results = [0.0] * 4
    threads = [threading.Thread(target=work, args=(results, i)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [3.0 * i * i for i in range(4)]


def test_backward_inside_a_hook():
    x, inner = leaf(1), leaf(2)
    x.register_hook(lambda g: (inner * 3).backward())
    (x * 2).backward()
    assert (x.grad.item(), inner.grad.item()) == (2, 3)
