"""DistributedDataParallel on ranks that are threads: the same bits as its naive twin, and clear errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtrain
from dtrain import data, nn, optim
from dtrain.backend.random import key
from dtrain.comm import Communicator, ThreadCommunicator, run_ranks
from dtrain.nn import functional as F
from dtrain.parallel import NaiveDistributedDataParallel, reducer
from tests.parallel.training import fingerprint, make_net, train


def on_one_rank(function: Callable[[Communicator], Any]) -> Any:
    return run_ranks(1, function)[0]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("microbatches", [4, 12])
def test_same_bits_at_any_number_of_ranks(microbatches: int, overlap: bool) -> None:
    """With BatchNorm, Dropout, clipping, an uneven last step, and that of 5 samples for 12 microbatches."""
    want, losses = on_one_rank(lambda comm: train(comm, microbatches))
    naive, _ = on_one_rank(lambda comm: train(comm, microbatches, wrap=NaiveDistributedDataParallel))
    assert want == naive
    assert len(losses) == 6 and np.isfinite(losses).all()
    for size in (p for p in (1, 2, 3, 4, 6, 12) if p <= microbatches):
        results = run_ranks(size, lambda comm: train(comm, microbatches, overlap=overlap))
        assert results == [(want, losses)] * size, f"{size} ranks"


@pytest.mark.parametrize("hosts", ["aab", "aabb", "abab", "aaab"])
def test_same_bits_on_several_hosts(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts of equal and unequal numbers of ranks, and ranks that are dealt out to hosts in turn."""
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 512)
    monkeypatch.setattr(reducer, "_BUCKET", 512)
    for microbatches in (4, 7):
        want = on_one_rank(lambda comm, m=microbatches: train(comm, m))
        results = run_ranks(len(hosts), lambda comm, m=microbatches: train(comm, m), hosts=list(hosts))
        assert results == [want] * len(hosts)


@pytest.mark.parametrize(
    ("hosts", "microbatches", "more"), [("aabb", 4, 1), ("aabbcc", 12, 1), ("abab", 4, 1.5), ("aaabbb", 12, 1.5)]
)
def test_bytes_between_hosts(hosts: str, microbatches: int, more: float) -> None:
    """Each host sends 2 n (H - 1) / H; more where its microbatches are not one subtree, but two."""

    def run(comm: Communicator) -> tuple[int, int]:
        model = dtrain.DistributedDataParallel(nn.Linear(1000, 50), comm, microbatches)
        for _ in range(2):
            before = comm.traffic.bytes_sent
            for j in model.block:
                model(dtrain.full((2, 1000), 1.0 + j)).mean().backward()
        return comm.traffic.bytes_sent - before, model._reducers[0].message.nbytes

    sent = run_ranks(len(hosts), run, hosts=hosts)
    count = len(set(hosts))
    for host in set(hosts):
        of_host = sum(nbytes for rank, (nbytes, _) in enumerate(sent) if hosts[rank] == host)
        ideal = 2 * sent[0][1] * (count - 1) / count
        assert of_host / ideal == pytest.approx(more, rel=0.01)


@pytest.mark.parametrize(
    ("sizes", "ends"),
    [
        ([30, 30, 30, 30], [30, 90, 128]),  # behind tensors, though that makes them larger
        ([300, 10], [20, 60, 100, 140, 180, 220, 300, 318]),  # a large one is cut
        ([5, 90, 3], [20, 95, 106]),
        ([1], [9]),
        ([10, 0, 20], [38]),
    ],
)
def test_where_buckets_end(sizes: list[int], ends: list[int]) -> None:
    class Plain(reducer.Reducer):
        def __init__(self) -> None:
            self.offset, places = 0, [0]
            for size in sizes:
                places.append(places[-1] + size)
            self.place = [slice(a, b) for a, b in zip(places, places[1:], strict=False)]
            self.message = np.zeros(places[-1] + 8)

    found = Plain()._bucket_ends(20, 40)
    assert found == ends


def test_the_fast_mode_says_so_and_is_right_within_rounding(capfd: pytest.CaptureFixture[str]) -> None:
    _, want = on_one_rank(lambda comm: train(comm, 6, dtype=np.float64))
    for hosts in (["a"] * 3, ["a", "a", "b"]):
        for _, losses in run_ranks(3, lambda comm: train(comm, 6, dtype=np.float64, exact=False), hosts=hosts):
            np.testing.assert_allclose(losses, want, rtol=1e-9)
    assert capfd.readouterr().err.count("fast mode") == 2


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("microbatches", [1, 6, 7])
def test_many_buckets(microbatches: int, overlap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets that cut parameters in pieces, sent one by one: what happens between hosts."""
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 256)
    monkeypatch.setattr(reducer, "_BUCKET", 128)
    monkeypatch.setattr(ThreadCommunicator, "window", lambda *args: None)
    want, _ = on_one_rank(lambda comm: train(comm, microbatches, wrap=NaiveDistributedDataParallel))
    for size in (p for p in (1, 2, 3) if p <= microbatches):
        results = run_ranks(size, lambda comm: train(comm, microbatches, overlap=overlap))
        assert {result for result, _ in results} == {want}


def test_buckets_leave_while_backward_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first step on: before the first layer is differentiated, gradients of the last are on their way."""
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 64)
    monkeypatch.setattr(reducer, "_BUCKET", 64)

    def run(comm: Communicator) -> list[list[str]]:
        seen: list[str] = []
        start = comm.start
        comm.start = lambda *args: (seen.append("bucket"), start(*args))[1]  # type: ignore[method-assign]
        net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
        net[0].weight.register_hook(lambda g: seen.append("first layer"))
        model = dtrain.DistributedDataParallel(net, comm, overlap=True)
        steps = []
        for _ in range(2):
            model(dtrain.ones(2, 8)).sum().backward()
            steps.append(list(seen))
            seen.clear()
        return steps

    for steps in run_ranks(2, run):
        for seen in steps:
            before = seen.index("first layer")
            assert 0 < before < len(seen) - 1, "buckets both before and after"
            assert before >= 2 * 8 * 8 * 4 // 64 - 1, "nearly all of the last two layers"


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_random_sizes(data: st.DataObject) -> None:
    microbatches = data.draw(st.integers(1, 9), "microbatches")
    size = data.draw(st.integers(1, microbatches), "ranks")
    batch_size = data.draw(st.integers(1, 40), "batch_size")
    samples = data.draw(st.integers(1, 60), "samples")
    dtype = data.draw(st.sampled_from([np.float32, np.float64]), "dtype")
    sizes = {"samples": samples, "batch_size": batch_size, "dtype": dtype}
    want = on_one_rank(lambda comm: train(comm, microbatches, wrap=NaiveDistributedDataParallel, **sizes))[0]
    for result, _ in run_ranks(size, lambda comm: train(comm, microbatches, **sizes)):
        assert result == want


def test_one_microbatch_is_the_plain_loop() -> None:
    """Bit for bit, Dropout and BatchNorm included."""

    class Plain(nn.Module):
        def __init__(self, module: nn.Module, comm: Communicator, microbatches: int) -> None:
            self.module, self.synchronized = module, True

        def forward(self, x: Any) -> Any:
            return self.module(x)

    plain, _ = on_one_rank(lambda comm: train(comm, 1, wrap=Plain, samples=48))
    wrapped, _ = on_one_rank(lambda comm: train(comm, 1, samples=48))
    assert plain == wrapped


def test_gradient_is_that_of_the_mean_over_the_global_batch() -> None:
    rng = np.random.Generator(np.random.Philox(key=5))
    x, y = rng.standard_normal((11, 6)), rng.integers(0, 3, 11)

    def whole(comm: Communicator) -> tuple[np.ndarray, float]:
        dtrain.manual_seed(0)
        net = nn.Linear(6, 3).double()
        loss = F.cross_entropy(net(dtrain.tensor(x)), dtrain.tensor(y))
        loss.backward()
        return net.weight.grad.numpy(), loss.item()

    def parts(comm: Communicator) -> tuple[np.ndarray, float, list[bool]]:
        dtrain.manual_seed(0)
        model = dtrain.DistributedDataParallel(nn.Linear(6, 3).double(), comm, 4)
        seen = []
        for images, labels in data.DataLoader(data.ArrayDataset(x, y), 11, comm=comm, microbatches=4):
            F.cross_entropy(model(images), labels).backward()
            seen.append(model.synchronized)
        return model.module.weight.grad.numpy(), model.loss, seen

    want, mean_loss = on_one_rank(whole)
    for got, loss, seen in run_ranks(2, parts):
        np.testing.assert_allclose(got, want, rtol=1e-12)
        assert seen == [False, True]
        assert loss == pytest.approx(mean_loss, rel=1e-12)


def test_weights_other_than_samples() -> None:
    """Tokens, say: microbatch j of weight j + 1 and gradient j gives sum of j (j + 1) / sum of (j + 1)."""

    def run(comm: Communicator) -> float:
        model = dtrain.DistributedDataParallel(nn.Linear(1, 1, bias=False), comm, 5)
        for j in model.block:
            model.set_weight(j + 1)
            model(dtrain.full((7, 1), float(j))).mean().backward()
        return model.module.weight.grad.item()

    assert run_ranks(3, run) == pytest.approx([sum(j * (j + 1) for j in range(5)) / 15] * 3)


class Branches(nn.Module):
    """Uses `a` or `b` by microbatch (and so by rank), `late` in every second step, `never` never, `twice` twice, and
    its weight once more in `tied`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.never, self.late, self.twice, self.tied = (nn.Linear(2, 2) for _ in range(6))
        self.tied.weight = self.twice.weight

    def forward(self, x: Any) -> Any:
        x = (self.a if key.microbatch % 2 else self.b)(x)
        if key.step % 2:
            x = self.late(x)
        return self.tied(self.twice(self.twice(x)))


def test_buckets_of_several_groups_leave_in_the_same_order_on_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though gradients arrive in different orders: what a rank does not use arrives last."""
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 64)
    monkeypatch.setattr(reducer, "_BUCKET", 64)

    def run(comm: Communicator, overlap: bool) -> str:
        dtrain.manual_seed(1)
        net = Branches()
        model = dtrain.DistributedDataParallel(net, comm, 2, overlap=overlap)
        groups = [[*net.twice.parameters(), *net.b.parameters()], [*net.a.parameters(), *net.never.parameters()]]
        groups[1] += [net.tied.bias, *net.late.parameters()]
        optimizer = optim.SGD([{"params": group} for group in groups], lr=0.1)
        for _ in range(3):
            for j in model.block:
                model(dtrain.full((2, 2), 1.0 + j)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return fingerprint(net)

    want = on_one_rank(lambda comm: run(comm, False))
    assert run_ranks(2, lambda comm: run(comm, True)) == [want] * 2


def gradients_of_branches(
    comm: Communicator, microbatches: int, wrap: Any = dtrain.DistributedDataParallel, **options: Any
) -> list[list[bytes | None]]:
    """Of four steps: with parameters that are never used, used twice, shared, and used in some steps."""
    dtrain.manual_seed(1)
    model = wrap(Branches(), comm, microbatches, **options)
    optimizer, gradients = optim.AdamW(model.parameters()), []
    for step in range(4):
        for j in model.block:
            model(dtrain.full((2, 2), 1.0 + j)).square().mean().backward()
        named = list(model.module.named_parameters())
        unused = ["never.weight", "never.bias"] + ([] if step % 2 else ["late.weight", "late.bias"])
        assert [name for name, p in named if p.grad is None] == unused
        gradients.append([None if p.grad is None else p.grad.numpy().tobytes() for _, p in named])
        optimizer.step()
        optimizer.zero_grad()
    return gradients


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("microbatches", "size"), [(6, 1), (6, 2), (6, 3), (2, 2)])
def test_unused_shared_and_changing_parameters(
    microbatches: int, size: int, overlap: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reducer, "_FIRST_BUCKET", 64)
    monkeypatch.setattr(reducer, "_BUCKET", 64)

    want = on_one_rank(lambda comm: gradients_of_branches(comm, microbatches, NaiveDistributedDataParallel))
    assert run_ranks(size, lambda comm: gradients_of_branches(comm, microbatches, overlap=overlap)) == [want] * size
    said = "used the parameters late.bias, late.weight, never.bias, never.weight; their grad is None"
    assert capfd.readouterr().err.count(said) == 1


def test_frozen_then_trained_then_frozen() -> None:
    def run(comm: Communicator) -> list[list[bool]]:
        dtrain.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[0].requires_grad_(False)
        model = dtrain.DistributedDataParallel(net, comm, 2)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        have = []
        for step in range(4):
            if step == 2:
                net[0].requires_grad_()
            if step == 3:
                net[1].requires_grad_(False)
            for j in model.block:
                model(dtrain.ones(2, 3) * (j + 1.0)).sum().backward()
            have.append([p.grad is not None for p in net.parameters()])
            optimizer.step()
            optimizer.zero_grad()
        return have

    frozen, trained = [False, False, True, True], [True] * 4
    assert run_ranks(2, run) == [[frozen, frozen, trained, frozen[::-1]]] * 2


def test_gradients_that_were_not_cleared_are_added_to() -> None:
    def run(comm: Communicator, steps: int) -> np.ndarray:
        dtrain.manual_seed(1)
        model = dtrain.DistributedDataParallel(nn.Linear(2, 1), comm, 2)
        for _ in range(steps):
            for j in model.block:
                model(dtrain.ones(1, 2) * (j + 1.0)).sum().backward()
        return model.module.weight.grad.numpy()

    for once, twice in zip(run_ranks(2, lambda c: run(c, 1)), run_ranks(2, lambda c: run(c, 2)), strict=True):
        np.testing.assert_array_equal(twice, 2 * once)


def test_gradients_lie_in_order_of_arrival_after_the_first_step() -> None:
    class Backwards(nn.Module):
        """Layers that are used in another order than they are made in."""

        def __init__(self) -> None:
            self.last, self.first = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.last(self.first(x))

    def run(comm: Communicator) -> list[str]:
        model = dtrain.DistributedDataParallel(Backwards(), comm, 2)
        names = {id(p): name for name, p in model.named_parameters()}
        for _ in range(2):
            for _ in model.block:
                model(dtrain.ones(1, 2)).sum().backward()
        return [names[id(t)] for t in model._reducers[0].flat.tensors]

    for order in run_ranks(2, run):
        assert [name.split(".")[0] for name in order] == ["last", "last", "first", "first"]


def test_state_dict_has_the_modules_own_keys() -> None:
    module = make_net()
    model = dtrain.DistributedDataParallel(module)
    assert list(model.state_dict()) == list(module.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in module.named_parameters()]
    model.load_state_dict(make_net().state_dict())
    model.eval()
    assert not module.training and not module[1].training and not model.training


def test_module_backward_through_the_wrapper() -> None:
    def run(comm: Communicator) -> tuple[bytes, bytes]:
        dtrain.manual_seed(1)
        model = dtrain.DistributedDataParallel(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), comm, 2)
        for j in model.block:
            x = dtrain.ones(2, 2) * (j + 1.0)
            model(x).sum().backward()
        by_loss = fingerprint_of_gradients(model)
        model.zero_grad()
        for j in model.block:
            _output = model(dtrain.ones(2, 2) * (j + 1.0))  # keeps the graph
            assert model.backward(dtrain.ones(2, 3)).shape == (2, 2)
        return by_loss, fingerprint_of_gradients(model)

    for by_loss, by_module in run_ranks(2, run):
        assert by_loss == by_module


def fingerprint_of_gradients(model: nn.Module) -> bytes:
    return b"".join(p.grad.numpy().tobytes() for p in model.parameters())


# -- what goes wrong ---------------------------------------------------------------------------------


def fails(size: int, function: Callable[[Communicator], Any], error: type[Exception], *words: str) -> None:
    """All ranks raise `error` with these words (a rank that does not would hang in what follows)."""

    def run(comm: Communicator) -> str:
        with pytest.raises(error) as caught:
            function(comm)
        comm.barrier()
        return str(caught.value)

    for message in run_ranks(size, run):
        for word in words:
            assert word in message


@pytest.mark.parametrize("size", [1, 2, 3])
def test_bad_input_is_one_clear_error_on_every_rank(size: int) -> None:
    def different_modules(comm: Communicator) -> None:
        dtrain.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        if comm.rank == comm.size - 1:
            net[1].bias.data.fill_(1.0)
        dtrain.DistributedDataParallel(net, comm)

    def different_shapes(comm: Communicator) -> None:
        dtrain.DistributedDataParallel(nn.Linear(2, 2 + (comm.rank == comm.size - 1)), comm)

    def step_too_early(comm: Communicator) -> None:
        model = dtrain.DistributedDataParallel(nn.Linear(2, 2), comm, 2 * comm.size)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model(dtrain.ones(1, 2)).sum().backward()
        optimizer.step()

    def too_many_ranks(comm: Communicator) -> None:
        dtrain.DistributedDataParallel(nn.Linear(2, 2), comm, comm.size - 1)

    def loss_is_nan(comm: Communicator) -> None:
        model = dtrain.DistributedDataParallel(nn.Linear(2, 2), comm)
        (model(dtrain.ones(1, 2)).sum() * float("nan")).backward()

    def loader_disagrees(comm: Communicator) -> None:
        model = dtrain.DistributedDataParallel(nn.Linear(2, 2), comm, comm.size)
        samples = data.ArrayDataset(np.ones((9, 2), np.float32))
        for (x,) in data.DataLoader(samples, 9, comm=comm, microbatches=2 * comm.size):
            model(x).sum().backward()

    def two_backwards(comm: Communicator) -> None:
        model = dtrain.DistributedDataParallel(nn.Linear(2, 2), comm, 2 * comm.size)
        y = model(dtrain.ones(1, 2)).sum()
        y.backward(retain_graph=True)
        y.backward()

    if size > 1:
        last = str(size - 1) if size == 2 else "2"
        fails(size, different_modules, RuntimeError, "rank 0", f"rank {last}", "1.bias", "differ")
        fails(size, different_shapes, RuntimeError, "weight", "(2, 2)", "(3, 2)")
        fails(size, too_many_ranks, ValueError, f"{size} ranks", f"{size - 1} microbatches")
    fails(size, step_too_early, RuntimeError, "step 0", "1 of its 2 microbatches", "1 are missing", "synchronized")
    fails(size, loss_is_nan, FloatingPointError, "nan", "step 0", "rank")
    fails(size, loader_disagrees, RuntimeError, f"of {size}", f"of {2 * size}", "loader")
    fails(size, two_backwards, RuntimeError, "backward() once for each microbatch", "sum of its losses")


def test_pytorchs_options() -> None:
    accepted = {
        "device_ids": [1], "output_device": 1, "find_unused_parameters": True, "static_graph": True,
        "gradient_as_bucket_view": False, "bucket_cap_mb": 100, "broadcast_buffers": True, "process_group": None,
    }  # fmt: skip
    dtrain.DistributedDataParallel(nn.Linear(2, 2), **accepted)
    for name, value, reason in [
        ("device_ids", [0, 1], "one device"), ("broadcast_buffers", False, "equal on all ranks"),
        ("process_group", "group", "comm=job.comm"), ("init_sync", False, "checked"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}=.* cannot be had: .*{reason}.*; leave it out"):
            dtrain.DistributedDataParallel(nn.Linear(2, 2), **{name: value})
    with pytest.raises(TypeError, match="unexpected keyword argument 'mixed_precision'"):
        dtrain.DistributedDataParallel(nn.Linear(2, 2), mixed_precision=None)
    with pytest.raises(TypeError, match=r"comm must be a communicator, as launch.Job\(\).comm is, got \[0\]"):
        dtrain.DistributedDataParallel(nn.Linear(2, 2), [0])


def test_nothing_to_train() -> None:
    for module in (nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(ValueError, match="nothing to train"):
            dtrain.DistributedDataParallel(module)


def test_replaying_a_model_leaves_the_state_as_it_was() -> None:
    """Evaluation between steps, with or without gradients off, does not change what training does."""

    def run(comm: Communicator, evaluate: bool) -> str:
        dtrain.manual_seed(2)
        model = dtrain.DistributedDataParallel(make_net(), comm, 4)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            for j in model.block:
                model(dtrain.full((3, 1, 4, 4), float(j + step))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if evaluate:
                model.eval()
                with dtrain.no_grad():
                    for _ in range(comm.rank + 1):
                        model(dtrain.randn(2, 1, 4, 4))
                model.train()
        return fingerprint(model.module)

    want = on_one_rank(lambda comm: run(comm, False))
    assert run_ranks(3, lambda comm: run(comm, True)) == [want] * 3


# -- programs that once made the bits depend on the number of ranks -----------------------------------


class Watched(nn.Module):
    """Dropout, a buffer that forward rebinds, one that nobody changes, and a layer that may be frozen."""

    def __init__(self) -> None:
        self.frozen, self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 8), nn.Linear(8, 3)
        self.norm, self.dropout = nn.BatchNorm1d(8), nn.Dropout(0.4)
        self.register_buffer("ema", dtrain.zeros(6))
        self.register_buffer("constant", dtrain.tensor([0.1307, 1 / 3]))

    def forward(self, x: Any) -> Any:
        self.ema = self.ema * 0.9 + x.mean(0).detach() * 0.1
        return self.b(self.dropout(self.norm(self.a(self.frozen(x)).tanh())))


def weights_apart(net: nn.Module, **options: Any) -> optim.Optimizer:
    weights = [p for p in net.parameters() if p.ndim > 1]
    biases = [p for p in net.parameters() if p.ndim == 1]
    return optim.SGD([{"params": weights, "weight_decay": 0.1}, {"params": biases}], lr=0.1, momentum=0.9)


def in_groups(comm: Communicator) -> str:
    return loop(comm, weights_apart)


def with_a_frozen_layer(comm: Communicator) -> str:
    def freeze(net: Any, **options: Any) -> optim.Optimizer:
        net.frozen.requires_grad_(False)
        return optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    return loop(comm, freeze, at_step_2=lambda model: model.module.frozen.requires_grad_(True))


def with_two_optimizers(comm: Communicator) -> str:
    class Two:
        def __init__(self, net: Any, **options: Any) -> None:
            self.both = [optim.SGD(net.a.parameters(), lr=0.1), optim.AdamW(net.b.parameters(), lr=0.01)]

        def step(self) -> None:
            for optimizer in self.both:
                optimizer.step()

        def zero_grad(self) -> None:
            for optimizer in self.both:
                optimizer.zero_grad()

    return loop(comm, Two)


def with_loading_in_between(comm: Communicator) -> str:
    def load(model: Any) -> None:
        state = {name: value.numpy() * 0.5 for name, value in model.state_dict().items()}
        model.load_state_dict(state)

    return loop(comm, at_step_2=load)


def with_a_training_forward_that_is_not_trained(comm: Communicator) -> str:
    def peek(model: Any) -> None:
        with dtrain.no_grad():
            model(dtrain.full((2 + comm.rank, 6), float(comm.rank)))

    return loop(comm, at_step_2=peek)


def with_gradients_set_to_zero_on_top(comm: Communicator) -> str:
    return loop(comm, clear_on_top=True)


def with_two_models(comm: Communicator) -> str:
    dtrain.manual_seed(4)
    models = [dtrain.DistributedDataParallel(Watched(), comm, 4) for _ in range(2)]
    optimizer = optim.SGD([p for m in models for p in m.parameters()], lr=0.1, momentum=0.9)
    for step in range(4):
        for j in models[0].block:
            for model in models:
                model(batch(step, j)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return fingerprint(models[0].module) + fingerprint(models[1].module)


def batch(step: int, j: int) -> Any:
    rng = np.random.Generator(np.random.Philox(key=100 * step + j))
    return dtrain.tensor(rng.standard_normal((2 + j, 6)).astype(np.float32))


def loop(
    comm: Communicator, make: Any = optim.SGD, at_step_2: Any = None, clear_on_top: bool = False, wrap: Any = None
) -> str:
    dtrain.manual_seed(4)
    model = (wrap or dtrain.DistributedDataParallel)(Watched(), comm, 4)
    optimizer = make(model.module, lr=0.1) if make is not optim.SGD else optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        if step == 2 and at_step_2 is not None:
            at_step_2(model)
        for j in model.block:
            if clear_on_top:
                optimizer.zero_grad(set_to_none=False)
            model(batch(step, j)).square().mean().backward()
        optimizer.step()
        if not clear_on_top:
            optimizer.zero_grad()
    np.testing.assert_array_equal(model.module.constant.numpy(), np.array([0.1307, 1 / 3], np.float32) * (
        np.float32(0.5) if at_step_2 is not None and "load" in at_step_2.__name__ else np.float32(1)
    ))  # fmt: skip
    return fingerprint(model.module)


@pytest.mark.parametrize(
    "program",
    [
        loop, in_groups, with_a_frozen_layer, with_two_optimizers, with_loading_in_between,
        with_a_training_forward_that_is_not_trained, with_gradients_set_to_zero_on_top, with_two_models,
    ],
)  # fmt: skip
def test_programs_have_the_same_bits_at_any_number_of_ranks(program: Callable[[Communicator], str]) -> None:
    want = on_one_rank(program)
    for size in (2, 3, 4):
        assert run_ranks(size, program) == [want] * size


def some_of(model: nn.Module) -> optim.Optimizer:
    """The others get gradients, too, which nobody asks for."""
    return optim.SGD(list(model.parameters())[2:], lr=0.1)


@pytest.mark.parametrize("make", [weights_apart, some_of])
def test_groups_do_not_move_parameters_twice(make: Callable[[nn.Module], optim.Optimizer]) -> None:
    """DistributedDataParallel takes over the flat buffers that the optimizer makes for its groups."""
    dtrain.manual_seed(4)
    model = dtrain.DistributedDataParallel(Watched())
    optimizer = make(model)
    seen = []
    for step in range(4):
        model(batch(step, 0)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append([id(p._flat.flat) for p in model.parameters()])
    assert seen[1] == seen[2] == seen[3] and len(set(seen[3])) == 2
    assert {id(r.flat) for r in model._reducers} == set(seen[3])


def test_what_is_not_the_models_output_is_weighted_alike() -> None:
    """A penalty on the weights, and the gradient of the input of the model."""
    rng = np.random.Generator(np.random.Philox(key=5))
    x, y = rng.standard_normal((8, 6)), rng.integers(0, 3, 8)

    def run(comm: Communicator) -> tuple[np.ndarray, np.ndarray]:
        dtrain.manual_seed(0)
        model = dtrain.DistributedDataParallel(nn.Linear(6, 3).double(), comm, 2)
        for j in model.block:
            images = dtrain.tensor(x[4 * j : 4 * j + 4], requires_grad=True)
            loss = F.cross_entropy(model(images), dtrain.tensor(y[4 * j : 4 * j + 4]))
            (loss + 0.5 * sum((p * p).sum() for p in model.parameters())).backward()
        return model.module.weight.grad.numpy().copy(), images.grad.numpy()

    dtrain.manual_seed(0)
    net = nn.Linear(6, 3).double()
    (
        F.cross_entropy(net(dtrain.tensor(x)), dtrain.tensor(y)) + 0.5 * sum((p * p).sum() for p in net.parameters())
    ).backward()
    want = net.weight.grad.numpy().copy()
    last = dtrain.tensor(x[4:], requires_grad=True)
    F.cross_entropy(net(last), dtrain.tensor(y[4:])).backward()
    for size in (1, 2):
        weight_grad, input_grad = run_ranks(size, run)[-1]
        np.testing.assert_allclose(weight_grad, want, rtol=1e-10)
        np.testing.assert_allclose(input_grad, last.grad.numpy(), rtol=1e-10)


def test_any_kind_of_output() -> None:
    @dataclass
    class Output:
        logits: Any
        hidden: Any

    class Net(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Any) -> Output:
            return Output(self.layer(x), x)

    model = dtrain.DistributedDataParallel(Net())
    model(dtrain.ones(1, 2)).logits.sum().backward()
    assert model.synchronized and model.module.layer.weight.grad is not None
