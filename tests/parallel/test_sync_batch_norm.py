"""SyncBatchNorm is BatchNorm over the whole batch, with the same bits at any number of ranks."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import data, nn, optim
from dtrain.comm import Communicator, run_ranks
from dtrain.nn import functional as F
from dtrain.parallel import reducer
from tests.parallel.training import fingerprint, make_net, make_sync_net, train

RNG = np.random.Generator(np.random.Philox(key=11))
X, Y = RNG.standard_normal((21, 6)) + 2, RNG.integers(0, 3, 21)


@pytest.mark.parametrize(
    ("microbatches", "overlap", "hosts"), [(4, False, None), (12, True, None), (4, True, "aabb"), (12, True, "aabb")]
)
def test_same_bits_at_any_number_of_ranks(
    microbatches: int, overlap: bool, hosts: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Dropout, an uneven last step, and for 12 microbatches one of 5 samples; one batch is smaller than M."""
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 256)
    monkeypatch.setattr(reducer, "_BUCKET", 128)
    for samples, batch_size in ((53, 24), (14, 6)):
        run = partial(train, microbatches=microbatches, make=make_sync_net, samples=samples, batch_size=batch_size)
        want = run_ranks(1, run)[0]
        for size in (2, 3, 4):
            results = run_ranks(size, partial(run, overlap=overlap), hosts=hosts and hosts[:size])
            assert results == [want] * size, f"{size} ranks"


class Net(nn.Module):
    """Several SyncBatchNorms, one of which is used twice."""

    def __init__(self) -> None:
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.first, self.twice = nn.BatchNorm1d(8), nn.BatchNorm1d(8, momentum=None)

    def forward(self, x: Any) -> Any:
        x = self.first(self.a(x)).tanh()
        return self.c(self.twice(self.b(self.twice(x))).tanh())


def parallel(comm: Communicator, microbatches: int, net: nn.Module) -> dtrain.DistributedDataParallel:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net.double())
    return dtrain.DistributedDataParallel(net, comm, microbatches)


def batches(comm: Communicator, microbatches: int, batch_size: int = 21) -> data.DataLoader:
    return data.DataLoader(data.ArrayDataset(X, Y), batch_size, comm=comm, microbatches=microbatches)


def state_and_gradients(net: nn.Module) -> dict[str, np.ndarray]:
    found = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    return found | {f"grad of {name}": p.grad.numpy().copy() for name, p in net.named_parameters()}


@pytest.mark.parametrize(("microbatches", "size"), [(2, 1), (5, 2), (21, 3), (24, 4)])
def test_equals_batch_norm_over_the_whole_batch(microbatches: int, size: int) -> None:
    """Gradients, loss and running statistics; with 24 microbatches some have no samples."""

    def whole() -> tuple[dict[str, np.ndarray], float, np.ndarray]:
        dtrain.manual_seed(0)
        net, x = Net().double(), dtrain.tensor(X, requires_grad=True)
        loss = F.cross_entropy(net(x), dtrain.tensor(Y))
        loss.backward()
        return state_and_gradients(net), loss.item(), x.grad.numpy()

    def parts(comm: Communicator) -> tuple[dict[str, np.ndarray], float]:
        dtrain.manual_seed(0)
        model = parallel(comm, microbatches, Net())
        for x, y in batches(comm, microbatches):
            F.cross_entropy(model(x), y).backward()
        return state_and_gradients(model.module), model.loss

    want, loss, _ = whole()
    for got, of_parts in run_ranks(size, parts):
        assert of_parts == pytest.approx(loss, rel=1e-12)
        assert list(got) == list(want)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-14, err_msg=name)


def test_equals_pytorch(torch: Any) -> None:
    """Two steps of SGD on the whole batch, in float64."""

    def ours(comm: Communicator) -> dict[str, np.ndarray]:
        dtrain.manual_seed(0)
        model = parallel(comm, 6, Net())
        optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        for _ in range(2):
            for x, y in batches(comm, 6):
                F.cross_entropy(model(x), y).backward()
                if model.synchronized:
                    optimizer.step()
                    optimizer.zero_grad()
        return {name: value.numpy() for name, value in model.state_dict().items()}

    class Theirs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Linear(*sizes) for sizes in ((6, 8), (8, 8), (8, 3)))
            self.first, self.twice = torch.nn.BatchNorm1d(8), torch.nn.BatchNorm1d(8, momentum=None)

        forward = Net.forward

    theirs = Theirs().double()
    dtrain.manual_seed(0)
    theirs.load_state_dict({name: torch.tensor(v.numpy()) for name, v in Net().double().state_dict().items()})
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.tensor(X)), torch.tensor(Y)).backward()
        optimizer.step()
    for got in run_ranks(3, ours):
        for name, value in theirs.state_dict().items():
            np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-9, atol=1e-14, err_msg=name)


# -- what a model and a loop may do ------------------------------------------------------------------


def loop(comm: Communicator, net: nn.Module, loss_of: Any = None, size: int = 4, setup: Any = None) -> str:
    """Some steps of 7 samples in 4 microbatches."""
    model = parallel(comm, size, net)
    if setup is not None:
        setup(model)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for x, y in batches(comm, size, 7):
            loss = F.cross_entropy(model(x), y) if loss_of is None else loss_of(model, x, y)
            loss.backward()
            if model.synchronized:
                optimizer.step()
                optimizer.zero_grad()
    return fingerprint(model.module)


class Rich(nn.Module):
    """Outputs of several kinds, attributes, buffers, random numbers, changing use of parameters."""

    def __init__(self) -> None:
        self.a, self.b, self.norm, self.plain = nn.Linear(6, 8), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LayerNorm(8)
        self.dropout, self.c, self.list = nn.Dropout(0.5), nn.Linear(8, 3), []
        self.register_buffer("ema", dtrain.zeros(6))
        self.steps = nn.BatchNorm1d(8)

    def forward(self, x: Any, temperature: float = 1.0) -> Any:
        self.ema = self.ema * 0.9 + (x.sum(0).detach() + len(x)) * 0.1
        self.list.clear()
        self.hidden = (self.a if dtrain.rand(1).item() < 0.5 else self.b)(x)
        self.list.append(self.hidden * 2)
        h = self.dropout(self.norm(self.hidden)) + self.hidden.tanh() * self.list[0] / temperature
        self.penalty = h.square().sum()
        return Output(self.c(self.plain(h) + self.ema.mean()), {"h": [h]})


@dataclass
class Output:
    logits: Any
    more: Any


def rich(comm: Communicator) -> str:
    """What forward leaves in attributes is each microbatch's own, after the call too."""

    def loss_of(model: Any, x: Any, y: Any) -> Any:
        noise = dtrain.rand(1)  # a draw of the loop's, before the model's on any rank
        output = model(x, temperature=2.0)
        (h,) = output.more["h"]
        assert model.module.penalty.item() == h.square().sum().item()
        assert len(model.module.hidden) == len(x)
        return F.cross_entropy(output.logits, y) + (h * noise).square().sum() + 0.1 * model.module.penalty

    return loop(comm, Rich(), loss_of)


def with_a_penalty(comm: Communicator) -> str:
    def loss_of(model: Any, x: Any, y: Any) -> Any:
        return F.cross_entropy(model(x), y) + 0.1 * sum((p * p).sum() for p in model.parameters())

    return loop(comm, Net(), loss_of)


def with_a_plain_batch_norm(comm: Communicator) -> str:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            self.a, self.sync, self.b = nn.Linear(6, 8), nn.SyncBatchNorm(8), nn.Linear(8, 3)
            self.register_buffer("seen", dtrain.zeros(8))

        def forward(self, x: Any) -> Any:
            h = self.a(x)
            self.seen.array += h.array.sum(0)  # in place, and before microbatches wait for each other
            return self.b(self.sync(h) + self.seen.detach())

    return loop(comm, Mixed())


def with_a_frozen_layer_and_one_in_evaluation(comm: Communicator) -> str:
    def setup(model: Any) -> None:
        model.module.a.requires_grad_(False)
        model.module.first.eval()

    return loop(comm, Net(), setup=setup)


def with_the_loss_in_the_model(comm: Communicator) -> str:
    class Whole(nn.Module):
        def __init__(self) -> None:
            self.net = Net()

        def forward(self, x: Any, *, target: Any) -> Any:
            return F.cross_entropy(self.net(x), target), target.sum()

    return loop(comm, Whole(), lambda model, x, y: model(x, target=y)[0])


def with_weights(comm: Communicator) -> str:
    def loss_of(model: Any, x: Any, y: Any) -> Any:
        model.set_weight(float(y.sum().item()))
        return F.cross_entropy(model(x), y, reduction="sum") / max(1, y.sum().item())

    return loop(comm, Net(), loss_of)


def with_a_copy_and_evaluation_in_between(comm: Communicator) -> str:
    def loss_of(model: Any, x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        assert copy.deepcopy(model.module).first.gather is None
        model.eval()
        with dtrain.no_grad():
            model(x)
        model.train()
        return loss

    return loop(comm, Net(), loss_of)


def with_a_module_backward(comm: Communicator) -> str:
    model = parallel(comm, 4, Net())
    for x, _ in batches(comm, 4):
        output = model(x)
        model.backward(output.detach() / max(1, output.numel()))
    return str(state_and_gradients(model.module))


@pytest.mark.parametrize(
    "program",
    [
        rich, with_a_penalty, with_a_plain_batch_norm, with_a_frozen_layer_and_one_in_evaluation,
        with_the_loss_in_the_model, with_weights, with_a_copy_and_evaluation_in_between, with_a_module_backward,
    ],
)  # fmt: skip
def test_programs_have_the_same_bits_at_any_number_of_ranks(program: Callable[[Communicator], str]) -> None:
    def run(comm: Communicator) -> str:
        dtrain.manual_seed(5)
        return program(comm)

    threads = threading.active_count()
    want = run_ranks(4, run)
    assert want == [want[0]] * 4
    for size in (1, 2, 3):
        assert run_ranks(size, run) == want[:size], f"{size} ranks"
    assert threading.active_count() == threads


def test_the_gradient_of_an_input_is_its_own_losses() -> None:
    """One microbatch per rank: the inputs need not come from a DataLoader, and the model may be called twice."""

    def whole() -> tuple[dict[str, np.ndarray], np.ndarray]:
        dtrain.manual_seed(0)
        net, x = Net().double(), dtrain.tensor(X[:20], requires_grad=True)
        (F.cross_entropy(net(x), dtrain.tensor(Y[:20])) + net(x * 2).square().mean()).backward()
        return state_and_gradients(net), x.grad.numpy()

    def run(comm: Communicator) -> tuple[dict[str, np.ndarray], np.ndarray]:
        dtrain.manual_seed(0)
        model, mine = parallel(comm, 4, Net()), slice(5 * comm.rank, 5 * comm.rank + 5)
        x = dtrain.tensor(X[mine], requires_grad=True)
        (F.cross_entropy(model(x), dtrain.tensor(Y[mine])) + model(x * 2).square().mean()).backward()
        return state_and_gradients(model.module), x.grad.numpy()

    (want, grad), results = whole(), run_ranks(4, run)
    for got, _ in results:
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-14, err_msg=name)
    # The mean over the batch counts each of the 4 parts a quarter.
    np.testing.assert_allclose(np.concatenate([x for _, x in results]), 4 * grad, rtol=1e-9, atol=1e-14)


def test_one_microbatch_is_the_plain_loop_and_evaluation_is_batch_norm() -> None:
    plain = run_ranks(1, lambda c: train(c, 1, make=make_net))[0]
    sync = run_ranks(1, lambda c: train(c, 1, make=lambda: nn.SyncBatchNorm.convert_sync_batchnorm(make_net())))[0]
    assert plain == sync
    x = dtrain.tensor(X.astype(np.float32))
    norms = [nn.SyncBatchNorm(6), nn.BatchNorm1d(6)]
    for training in (True, False):
        first, second = (norm.train(training)(x).detach().numpy() for norm in norms)
        np.testing.assert_array_equal(first, second)


# -- what goes wrong ---------------------------------------------------------------------------------


class Box:
    """Hides a Tensor from DistributedDataParallel."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Boxed(Net):
    def forward(self, x: Any) -> Any:
        return Box(super().forward(x))


class Branching(Net):
    """Goes another way for the microbatch with sample 6."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) if (x.array[:, 0] != X[6, 0]).all() else self.c(self.b(self.a(x)))


class OneRow(Net):
    def forward(self, x: Any) -> Any:
        return super().forward(x[: int((x.array[:, 0] == X[0, 0]).any())])


def plain_loss(model: Any, x: Any, y: Any) -> Any:
    return F.cross_entropy(model(x), y)


def in_place(model: Any, x: Any, y: Any) -> Any:
    x.array += 1
    return plain_loss(model, x, y)


def too_late(model: Any, x: Any, y: Any) -> Any:
    """The second microbatch's loss is made of the first one's output."""
    outputs = vars(model).setdefault("outputs", [])
    outputs.append(model(x))
    return outputs[0].sum() if len(outputs) > 1 else sum(p.sum() for p in model.parameters())


@pytest.mark.parametrize(
    ("match", "net", "loss_of"),
    [
        ("computes its 2 microbatches of a step together.* no input comes from a DataLoader.* or use as many ranks .*4",
            Net, lambda m, x, y: plain_loss(m, x * 2, y)),
        ("an input is not what the DataLoader gave", Net,
            lambda m, x, y: plain_loss(m, x * 2 if x.microbatch[0] % 2 else x, y)),
        ("an input was changed after the DataLoader gave it", Net, in_place),
        ("it is called twice in a microbatch", Net, lambda m, x, y: plain_loss(m, x, y) + plain_loss(m, x, y)),
        ("outside of DistributedDataParallel's backward pass", Boxed, lambda m, x, y: F.cross_entropy(m(x).value, y)),
        ("take the same way through", Branching, plain_loss),
        ("microbatches of a step together, got one", OneRow, plain_loss),
        ("which is not the one under way; call backward", Net,
            too_late),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_error(match: str, net: Any, loss_of: Any) -> None:
    threads = threading.active_count()
    with pytest.raises((RuntimeError, ValueError), match=match):
        run_ranks(2, lambda comm: loop(comm, net(), loss_of))
    assert threading.active_count() == threads
