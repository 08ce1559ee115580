"""autocast beside PyTorch's: which dtype an operation gives, gradients in the weights' own, and where it ends."""

from __future__ import annotations

import threading
from functools import reduce
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.nn import functional as F
from dtrain.utils.checkpoint import checkpoint

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def probabilities(*shape: int) -> np.ndarray:
    return RNG.random(shape).astype(np.float32)


LABELS = np.array([0, 2, 1, 1])
#: Function, arrays (float32), and which of them are converted to bfloat16 before.
CALLS: list[tuple[str, list[np.ndarray], tuple[int, ...]]] = [
    ("nn.functional.linear", [array(4, 5), array(3, 5), array(3)], ()),
    ("nn.functional.linear", [array(4, 5), array(3, 5)], (0, 1)),
    ("matmul", [array(2, 4, 5), array(2, 5, 3)], ()),
    ("matmul", [array(4, 5), array(5)], (0,)),
    ("bmm", [array(2, 4, 5), array(2, 5, 3)], ()),
    ("addmm", [array(4, 3), array(4, 5), array(5, 3)], ()),
    ("nn.functional.conv1d", [array(2, 3, 8), array(4, 3, 3), array(4)], ()),
    ("nn.functional.conv2d", [array(2, 3, 8, 8), array(4, 3, 3, 3)], ()),
    ("nn.functional.conv3d", [array(2, 3, 4, 4, 4), array(4, 3, 2, 2, 2)], (0,)),
    ("nn.functional.conv_transpose2d", [array(2, 3, 5, 5), array(3, 4, 3, 3), array(4)], ()),
    ("nn.functional.scaled_dot_product_attention", [array(2, 4, 8), array(2, 5, 8), array(2, 5, 8)], ()),
    ("nn.functional.prelu", [array(4, 5), array(1)], ()),
    ("nn.functional.relu", [array(4, 5)], (0,)),
    ("nn.functional.relu", [array(4, 5)], ()),
    ("nn.functional.gelu", [array(4, 5)], (0,)),
    ("nn.functional.softmax", [array(4, 5), -1], (0,)),
    ("nn.functional.layer_norm", [array(4, 5), (5,), array(5), array(5)], ()),
    ("nn.functional.batch_norm", [array(4, 5, 3), array(5), probabilities(5) + 1, array(5), array(5)], (0,)),
    ("nn.functional.max_pool2d", [array(1, 2, 4, 4), 2], (0,)),
    ("nn.functional.avg_pool3d", [array(1, 2, 4, 4, 4), 2], (0,)),
    ("nn.functional.cross_entropy", [array(4, 3), LABELS], (0,)),
    ("nn.functional.nll_loss", [array(4, 3), LABELS], (0,)),
    ("nn.functional.mse_loss", [array(4, 3), array(4, 3)], (0,)),
    ("nn.functional.l1_loss", [array(4, 3), array(4, 3)], (0, 1)),
    ("nn.functional.smooth_l1_loss", [array(4, 3), array(4, 3)], (0, 1)),
    ("nn.functional.huber_loss", [array(4, 3), array(4, 3)], (0, 1)),
    ("nn.functional.kl_div", [array(4, 3), probabilities(4, 3)], (0, 1)),
    ("nn.functional.binary_cross_entropy_with_logits", [array(4, 3), probabilities(4, 3)], (0,)),
    ("nn.functional.triplet_margin_loss", [array(4, 3), array(4, 3), array(4, 3)], (0, 1, 2)),
    ("prod", [array(4)], (0,)),
    ("cdist", [array(4, 3), array(2, 3)], (0, 1)),
    ("trace", [array(3, 3)], (0,)),
    ("add", [array(4, 3), array(4, 3)], (0,)),
    ("mul", [array(4, 3), array(4, 3)], (0, 1)),
    ("exp", [array(4, 3)], (0,)),
    ("sum", [array(40, 30)], (0,)),
    ("sum", [array(4, 3)], ()),
]


def called(library: Any, name: str, arguments: list[Any], low: tuple[int, ...], **options: Any) -> Any:
    """The result inside of autocast, and the leaves."""
    leaves, args = [], []
    for i, a in enumerate(arguments):
        if not isinstance(a, np.ndarray):
            args.append(a)
            continue
        tensor = library.from_numpy(a.copy())
        if a.dtype == np.float32 and not (name.endswith("batch_norm") and i in (1, 2)):
            leaves.append(tensor.requires_grad_())
        args.append(tensor.to(library.bfloat16) if i in low else tensor)
    with library.autocast("cpu", **options):
        return reduce(getattr, name.split("."), library)(*args), leaves


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize(("name", "arguments", "low"), CALLS, ids=[f"{n.split('.')[-1]}-{low}" for n, _, low in CALLS])
def test_dtypes_values_and_gradients_are_pytorchs(name: str, arguments: list[Any], low: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    got, ours = called(dtrain, name, arguments, low)
    want, theirs = called(torch, name, arguments, low)
    assert str(want.dtype) == f"torch.{got.dtype}"
    for library, y in ((dtrain, got), (torch, want)):
        weights = np.cos(np.arange(y.numel(), dtype=np.float32)).reshape(tuple(y.shape))
        y.backward(library.from_numpy(weights).to(y.dtype))
    for a, b in [(got, want), *((x.grad, y.grad) for x, y in zip(ours, theirs, strict=True))]:
        assert str(b.dtype) == f"torch.{a.dtype}"
        close(a.detach().float().numpy(), b.detach().float().numpy())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"ignore_index": 1}, {"weight": True}])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (5,), (200, 70)])
def test_a_loss_of_two_byte_logits_is_that_of_their_values_in_float32(
    shape: tuple[int, ...], options: dict[str, Any], reduction: str
) -> None:
    """To the bit, without a copy of the logits in float32, and so are gradients of gradients."""
    rng = np.random.default_rng(1)
    logits, places = rng.standard_normal(shape).astype(np.float32), (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    target = dtrain.from_numpy(rng.integers(0, 5, places))
    options = {**options, "reduction": reduction}
    if "weight" in options:
        options["weight"] = dtrain.from_numpy(rng.random(shape[min(1, len(shape) - 1)]).astype(np.float32))
    found = []
    for low in (True, False):
        x = dtrain.from_numpy(logits).to(dtrain.bfloat16).requires_grad_()
        with dtrain.autocast("cpu"):
            loss, again = (F.cross_entropy(x if low else x.float(), target, **options) for _ in range(2))
        assert loss.dtype == np.float32
        (first,) = dtrain.autograd.grad(loss.sum(), x, create_graph=True)
        (second,) = dtrain.autograd.grad((first.float() ** 2).sum(), x)
        again.sum().backward()
        found.append([t.detach().float().numpy() for t in (loss, x.grad, first, second)])
    for got, want in list(zip(*found, strict=True))[:2]:
        assert got.tobytes() == want.tobytes()
    for got, want in list(zip(*found, strict=True))[2:]:
        close(got, want)


def close(got: np.ndarray, want: np.ndarray) -> None:
    """As near as bfloat16 has its numbers."""
    np.testing.assert_allclose(got, want, rtol=2e-2, atol=1e-2 * max(1e-6, np.abs(want).max(initial=0)))


def test_a_model_trains_as_pytorchs() -> None:
    torch = pytest.importorskip("torch")

    def make(nn: Any) -> Any:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3),
            nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4),
        )  # fmt: skip

    theirs, ours = make(torch.nn), make(nn)
    ours.load_state_dict({name: value.numpy() for name, value in theirs.state_dict().items()})
    x, y = array(6, 3, 8, 8), np.array([0, 1, 2, 3, 0, 1])
    losses: list[list[float]] = [[], []]
    for found, library, model in zip(losses, (torch, dtrain), (theirs, ours), strict=True):
        optimizer = library.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for _ in range(10):
            with library.autocast("cpu", dtype=library.bfloat16):
                output = model(library.from_numpy(x))
                loss = library.nn.functional.cross_entropy(output, library.from_numpy(y))
            optimizer.zero_grad()
            loss.backward()
            assert all(p.grad.dtype == library.float32 for p in model.parameters())
            optimizer.step()
            found.append(loss.item())
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert losses[1][-1] < losses[1][0]


def test_where_it_begins_and_ends() -> None:
    x, w = dtrain.ones(2, 3), dtrain.ones(4, 3)

    @dtrain.autocast("cpu", dtrain.float16)
    def decorated() -> Any:
        return F.linear(x, w).dtype

    elsewhere: list[Any] = []
    with dtrain.autocast("cpu"):
        assert dtrain.is_autocast_enabled("cpu") and dtrain.get_autocast_dtype("cpu") == dtrain.bfloat16
        assert F.linear(x, w).dtype == dtrain.bfloat16 and decorated() == dtrain.float16
        with dtrain.autocast("cpu", enabled=False):
            assert F.linear(x, w).dtype == dtrain.float32 and not dtrain.is_autocast_enabled()
        thread = threading.Thread(target=lambda: elsewhere.append(F.linear(x, w).dtype))
        thread.start()
        thread.join()
        assert F.linear(x.double(), w.double()).dtype == dtrain.float64
        with pytest.raises(RuntimeError, match="stop"), dtrain.autocast("cpu", enabled=False):
            raise RuntimeError("stop")
        assert F.linear(x, w).dtype == dtrain.bfloat16
    assert elsewhere == [dtrain.float32] and F.linear(x, w).dtype == dtrain.float32
    with pytest.raises(ValueError, match="'cpu' or 'cuda', got 'mps'"):
        dtrain.autocast("mps")
    with pytest.raises(TypeError, match="bfloat16 or float16, got float32"):
        dtrain.autocast("cpu", dtrain.float32)


def test_an_activation_checkpoint_is_computed_again_in_the_same_precision() -> None:
    model, x = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), dtrain.tensor(array(4, 5))
    found = []
    for run in (model, lambda x: checkpoint(model, x)):
        model.zero_grad()
        with dtrain.autocast("cpu"):
            y = run(x)
        y.float().square().sum().backward()
        found.append([y.array.tobytes(), *(p.grad.array.tobytes() for p in model.parameters())])
    assert found[0] == found[1]


def test_gradients_of_gradients() -> None:
    torch = pytest.importorskip("torch")
    x, w = array(4, 5), array(3, 5)
    found = []
    for library in (dtrain, torch):
        a, b = library.from_numpy(x).requires_grad_(), library.from_numpy(w).requires_grad_()
        with library.autocast("cpu"):
            y = library.nn.functional.linear(a, b).tanh()
        (gradient,) = library.autograd.grad(y.float().sum(), a, create_graph=True)
        gradient.square().sum().backward()
        found.append([t.grad.numpy() for t in (a, b)])
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("function", [F.linear, F.conv1d, F.conv_transpose1d])
def test_what_autocast_does_not_convert_is_an_error_as_without_it(function: Any) -> None:
    """float64 stays what it is, as in PyTorch, and products are not promoted."""
    shape = (3, 3) if function is F.linear else (3, 3, 3)
    x, w, b = dtrain.ones(*shape), dtrain.ones(*shape), dtrain.ones(3, dtype=dtrain.float64)
    for enabled in (False, True):
        with dtrain.autocast("cpu", enabled=enabled):
            for call in (lambda: function(x, w, b), lambda: function(x, w.double()), lambda: function(x.double(), w)):
                with pytest.raises(TypeError, match=r"needs operands of one dtype, got \w+ and \w+"):
                    call()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int32"])
@pytest.mark.parametrize("recorded", [False, True])
def test_conversions_of_what_does_not_fit_say_nothing(dtype: str, recorded: bool) -> None:
    """As in PyTorch: a warning (here an error) would come with every overflow that GradScaler looks for."""
    torch = pytest.importorskip("torch")
    values = np.array([np.nan, 1e39, -1e39, np.inf, 1, -2.5])
    got, want = (
        library.tensor(values, requires_grad=recorded).to(getattr(library, dtype)) for library in (dtrain, torch)
    )
    if dtype != "int32":
        np.testing.assert_array_equal(got.detach().double().numpy(), want.detach().double().numpy())
    else:
        assert got[4:].tolist() == want[4:].tolist()


def test_a_mask_is_filled_in_bfloat16() -> None:
    x, mask = dtrain.ones(3, dtype=dtrain.bfloat16), dtrain.tensor([True, False, True])
    assert x.masked_fill(mask, float("-inf")).tolist() == [-np.inf, 1, -np.inf]
    assert x.masked_fill(mask, -1e30).dtype == dtrain.bfloat16
    assert x.index_fill(0, dtrain.tensor([1]), 2.5).tolist() == [1, 2.5, 1]


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sum", "mean", "prod", "cumsum"])
@pytest.mark.parametrize("asked", ["float32", "float64", None])
def test_a_dtype_that_is_asked_for_is_given(torch: Any, name: str, asked: str | None) -> None:
    values, of_y, results = array(3, 5), array(3, 5), []
    for library, tensor in ((dtrain, dtrain.tensor), (torch, torch.tensor)):
        x = tensor(values).to(library.bfloat16).requires_grad_()
        y = getattr(library, name)(x, 1, dtype=getattr(library, asked) if asked else None)
        y.backward(tensor(of_y if y.ndim == 2 else of_y[:, 0]).to(y.dtype))
        results.append((str(y.dtype).removeprefix("torch."), y.detach().float().numpy(), x.grad.float().numpy()))
    (dtype, value, grad), (wanted, expected, expected_grad) = results
    assert dtype == wanted
    np.testing.assert_allclose(value, expected, rtol=1e-6 if asked else 2e-2, atol=1e-6 if asked else 2e-2)
    np.testing.assert_allclose(grad, expected_grad, rtol=2e-2, atol=2e-2)
