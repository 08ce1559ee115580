"""Every layer and loss beside PyTorch's: constructor, state dict, values, gradients, initial weights."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn
from dtrain.autograd import Tensor

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


LABELS = np.array([0, 2, -100, 1])
SHARES = RNG.dirichlet(np.ones(3), 4)
WEIGHTS = np.array([0.5, 1.0, 2.0])

# class, arguments (arrays become tensors), inputs of the call
LAYERS: list[tuple[str, dict[str, Any], list[np.ndarray]]] = [
    ("Linear", {"in_features": 3, "out_features": 4}, [normal(2, 3)]),
    ("Linear", {"in_features": 3, "out_features": 4, "bias": False}, [normal(2, 5, 3)]),
    ("Linear", {"in_features": 3, "out_features": 4}, [normal(0, 3)]),
    ("Conv2d", {"in_channels": 2, "out_channels": 4, "kernel_size": 3}, [normal(2, 2, 5, 6)]),
    ("Conv2d", {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0),
        "dilation": (1, 2),
                "groups": 2, "bias": False}, [normal(2, 4, 6, 6)]),
    ("Conv2d", {"in_channels": 2, "out_channels": 2, "kernel_size": 3, "padding": "same"}, [normal(0, 2, 4, 4)]),
    ("Embedding", {"num_embeddings": 5, "embedding_dim": 3}, [np.array([[0, 4], [4, 2]])]),
    ("Embedding", {"num_embeddings": 5, "embedding_dim": 3, "padding_idx": -1}, [np.array([0, 4, 4])]),
    ("BatchNorm1d", {"num_features": 3}, [normal(4, 3)]),
    ("BatchNorm1d", {"num_features": 3, "momentum": None}, [normal(4, 3, 2)]),
    ("BatchNorm2d", {"num_features": 3, "eps": 1e-3, "momentum": 0.3}, [normal(2, 3, 2, 4)]),
    ("BatchNorm2d", {"num_features": 3, "affine": False}, [normal(2, 3, 2, 4)]),
    ("BatchNorm2d", {"num_features": 3, "track_running_stats": False}, [normal(2, 3, 2, 4)]),
    ("SyncBatchNorm", {"num_features": 3}, [normal(4, 3)]),
    ("SyncBatchNorm", {"num_features": 3, "momentum": None, "eps": 1e-3}, [normal(2, 3, 2, 4, 2)]),
    ("LayerNorm", {"normalized_shape": 4}, [normal(2, 3, 4)]),
    ("LayerNorm", {"normalized_shape": (3, 4), "eps": 1e-3, "bias": False}, [normal(2, 3, 4)]),
    ("LayerNorm", {"normalized_shape": 4, "elementwise_affine": False}, [normal(0, 4)]),
    ("MaxPool2d", {"kernel_size": 2}, [normal(2, 3, 4, 6)]),
    ("MaxPool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, [normal(2, 3, 6, 6)]),
    ("AvgPool2d", {"kernel_size": (2, 3), "stride": 2, "padding": 1, "count_include_pad": False}, [normal(2, 3, 5, 6)]),
    ("AdaptiveAvgPool2d", {"output_size": (2, None)}, [normal(2, 3, 5, 6)]),
    ("AdaptiveAvgPool2d", {"output_size": 1}, [normal(0, 3, 5, 6)]),
    ("Flatten", {}, [normal(2, 3, 4)]),
    ("Flatten", {"start_dim": 0, "end_dim": 1}, [normal(2, 3, 4)]),
    ("Flatten", {}, [normal(0, 3, 4)]),
    ("Identity", {}, [normal(2, 3)]),
    ("Dropout", {"p": 0.0}, [normal(2, 3)]),
    ("Dropout", {"p": 1.0}, [normal(2, 3)]),
    ("ReLU", {}, [normal(2, 3)]),
    ("ReLU", {"inplace": False}, [normal(0, 3)]),
    ("GELU", {}, [normal(2, 3)]),
    ("GELU", {"approximate": "tanh"}, [normal(2, 3)]),
    ("Tanh", {}, [normal(2, 3)]),
    ("Sigmoid", {}, [normal(2, 3)]),
    ("Softmax", {"dim": 1}, [normal(2, 3)]),
    ("LogSoftmax", {"dim": 0}, [normal(2, 3)]),
    ("CrossEntropyLoss", {}, [normal(4, 3), LABELS]),
    ("CrossEntropyLoss", {"weight": WEIGHTS, "label_smoothing": 0.1, "reduction": "sum"}, [normal(4, 3), LABELS]),
    ("CrossEntropyLoss", {"ignore_index": 2, "reduction": "none"}, [normal(4, 3, 2), np.array([[0, 1]] * 4)]),
    ("CrossEntropyLoss", {}, [normal(4, 3), SHARES]),
    ("MSELoss", {}, [normal(4, 3), normal(4, 3)]),
    ("MSELoss", {"reduction": "sum"}, [normal(0, 3), normal(0, 3)]),
    ("BCEWithLogitsLoss", {}, [normal(4, 3), SHARES]),
    ("BCEWithLogitsLoss", {"weight": WEIGHTS, "pos_weight": WEIGHTS[::-1].copy(), "reduction": "none"},
        [normal(4, 3), SHARES]),
]  # fmt: skip
IDS = [
    f"{name}({','.join(f'{k}={v if not isinstance(v, np.ndarray) else chr(42)}' for k, v in kw.items())})"
    for name, kw, _ in LAYERS
]


def test_the_table_names_layers():
    """Not every layer: what PyTorch's samples show of the others is in tests/parity."""
    assert {name for name, _, _ in LAYERS} <= {name for name in nn.__all__ if inspect.isclass(getattr(nn, name))}


def build(module: Any, make: Any, name: str, options: dict[str, Any]) -> Any:
    options = {k: make(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    return getattr(module, name)(**options)


@pytest.mark.parametrize(("name", "options", "inputs"), LAYERS, ids=IDS)
def test_layer_is_pytorchs(torch, name, options, inputs):
    ours = build(nn, Tensor, name, options).double()
    theirs = build(torch.nn, torch.from_numpy, name, options).double()
    assert {k: (v.shape, v.dtype) for k, v in ours.state_dict().items()} == {
        k: (tuple(v.shape), v.numpy().dtype) for k, v in theirs.state_dict().items()
    }
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.from_numpy(rng.standard_normal(tuple(p.shape))))
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        x = [Tensor(a.copy()) for a in inputs]
        t = [torch.from_numpy(a.copy()) for a in inputs]
        if inputs[0].dtype.kind == "f":
            x[0].requires_grad_()
            t[0].requires_grad_()
        y, z = ours(*x), theirs(*t)
        np.testing.assert_allclose(y.array, z.detach().numpy(), rtol=1e-9, atol=1e-12)
        g = rng.standard_normal(y.shape)
        ours.zero_grad()
        theirs.zero_grad()
        if y.requires_grad:
            y.backward(Tensor(np.array(g)))
            z.backward(torch.from_numpy(np.array(g)))
        pairs = [
            (x[0].grad, t[0].grad),
            *((p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)),
        ]
        for a, b in pairs:
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a.array, b.numpy(), rtol=1e-9, atol=1e-12)
        for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            np.testing.assert_allclose(a.array, b.numpy(), rtol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in LAYERS}))
def test_constructors_take_pytorchs_arguments(torch, name):
    ours = list(inspect.signature(getattr(nn, name).__init__).parameters.values())[1:]
    theirs = dict(inspect.signature(getattr(torch.nn, name).__init__).parameters)
    if name == "Identity":
        return
    for p in ours:
        assert p.name in theirs
        default = theirs[p.name].default
        assert p.default == default or {p.default, default} <= {None, inspect.Parameter.empty}


@pytest.mark.parametrize(
    ("layer", "bound"),
    [
        (lambda: nn.Linear(400, 300), 1 / 20),
        (lambda: nn.Conv2d(16, 300, (5, 5)), 1 / 20),
        (lambda: nn.Conv2d(32, 600, (5, 5), groups=2), 1 / 20),
    ],
)
def test_initial_weights_fill_pytorchs_interval(layer, bound):
    dtrain.manual_seed(0)
    made = layer()
    for p in (made.weight, made.bias):
        a = p.array
        assert a.dtype == np.float32
        assert abs(a).max() <= bound
        assert abs(a).max() > 0.95 * bound
        assert abs(a.mean()) < 4 * bound / math.sqrt(3 * a.size)
        assert a.std() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert not np.array_equal(layer().weight.array, made.weight.array)


def test_other_initial_values():
    dtrain.manual_seed(0)
    table = nn.Embedding(300, 40, padding_idx=3).weight.array
    assert not table[3].any()
    assert (abs(table.mean()), table.std()) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))
    norm = nn.BatchNorm2d(2)
    assert [t.tolist() for t in norm.state_dict().values()] == [[1, 1], [0, 0], [0, 0], [1, 1], 0]
    assert nn.Linear(0, 2).bias.tolist() == [0, 0]


def test_batch_norm_needs_two_values_in_training_and_none_in_evaluation():
    norm = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="more than one value per channel"):
        norm(dtrain.ones(1, 3))
    before = norm.running_var.tolist()
    x = dtrain.zeros(0, 3, requires_grad=True)
    y = norm(x)  # a rank without samples in a step
    y.sum().backward()
    assert (y.shape, norm.running_var.tolist(), norm.weight.grad.tolist()) == ((0, 3), before, [0, 0, 0])
    assert norm.eval()(dtrain.ones(1, 3)).shape == (1, 3)
    with pytest.raises(ValueError, match=r"BatchNorm1d takes inputs of \(2, 3\) dimensions"):
        norm(dtrain.ones(2, 3, 4, 4))


def test_convert_sync_batchnorm():
    class Block(nn.Module):
        def __init__(self):
            self.norm, self.again = nn.BatchNorm1d(3, eps=0.1), nn.Linear(2, 2)
            self.twice = self.norm

    net = nn.Sequential(nn.BatchNorm2d(2, momentum=None), nn.ModuleList([Block(), nn.BatchNorm1d(2, affine=False)]))
    net[1].eval()
    state, names = net.state_dict(), [name for name, _ in net.named_parameters()]
    parameters = list(net.parameters())
    assert nn.SyncBatchNorm.convert_sync_batchnorm(net) is net
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert [name for name, _ in net.named_parameters()] == names
    assert all(value.array is state[name].array for name, value in net.state_dict().items())
    norms = [m for m in net.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert [(m.num_features, m.eps, m.momentum, m.affine, m.training) for m in norms] == [
        (2, 1e-5, None, True, True), (3, 0.1, 0.1, True, False), (2, 1e-5, 0.1, False, False),
    ]  # fmt: skip
    assert net[1][0].twice is net[1][0].norm
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in net.modules())
    alone = nn.BatchNorm1d(2)
    made = nn.SyncBatchNorm.convert_sync_batchnorm(alone)
    assert isinstance(made, nn.SyncBatchNorm) and made.weight is alone.weight
    assert nn.SyncBatchNorm.convert_sync_batchnorm(made) is made
    for fails in (nn.SyncBatchNorm, lambda n, process_group: made.convert_sync_batchnorm(made, process_group)):
        with pytest.raises(ValueError, match="over all ranks; process_group must be None, got 'group'"):
            fails(2, process_group="group")
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        made(dtrain.ones(2))


def test_a_whole_cnn_takes_an_empty_batch():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.GELU(),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 3),
    )  # fmt: skip
    loss = nn.CrossEntropyLoss(reduction="sum")(net(dtrain.zeros(0, 1, 12, 12)), dtrain.zeros(0, dtype=dtrain.int64))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.array.any() for p in net.parameters())
    assert math.isnan(
        nn.CrossEntropyLoss()(net(dtrain.zeros(0, 1, 12, 12)), dtrain.zeros(0, dtype=dtrain.int64)).item()
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(3, 4, 3, groups=2), lambda: nn.Conv2d(3, 4, 0), lambda: nn.Conv2d(3, 4, (1, 2, 3)),
        lambda: nn.Dropout(1.5),
        lambda: nn.Embedding(3, 2, padding_idx=3), lambda: nn.Conv2d(3, 4, 3, stride=0),
    ],
)  # fmt: skip
def test_bad_options(make):
    with pytest.raises(ValueError, match="must|no row"):
        make()


@pytest.mark.parametrize(
    "name", ["CELU", "ELU", "GELU", "GLU", "Hardswish", "LogSigmoid", "Mish", "SELU", "SiLU", "Softplus"]
)
def test_activations_of_floats_refuse_integers(name: str) -> None:
    with pytest.raises(TypeError, match=f"(?i){name}.* needs a floating-point tensor, got int64"):
        getattr(dtrain.nn, name)()(dtrain.ones(2, dtype=dtrain.int64))


def test_local_response_norm_of_no_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="local_response_norm: size must be at least 1, got 0"):
        nn.LocalResponseNorm(0)(dtrain.ones(1, 2, 3))
