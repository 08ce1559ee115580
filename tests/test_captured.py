"""A step captured on a CPU: the bits of the step as it is, or a reason why it is not captured."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.comm import run_ranks
from dtrain.nn import functional as F
from dtrain.optim.swa_utils import AveragedModel


class _Gated(dtrain.autograd.Function):
    """x * sigmoid(x), with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        s = dtrain.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx, g):
        x, s = ctx.saved_tensors
        return g * (s + x * s * (1 - s))


class _Mixed(nn.Module):
    """Ways to compute that are not layers: in place, random, cast, split, used twice, hooked, constant."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 6)
        self.register_buffer("seen", dtrain.zeros(12))
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = self.first(x)
        with dtrain.no_grad():
            self.seen.mul_(0.9).add_(x.mean(0))
            self.seen += dtrain.ones(12)
        x = x + 0.1 * dtrain.randn(*x.shape) + dtrain.arange(12) / 12
        x = _Gated.apply(x) + self.first(F.dropout(x, 0.2))
        x.register_hook(lambda g: g * 0.5)
        a, b, c = x.split(4, 1)
        x = dtrain.cat([a * b, c.exp().clamp(max=3.0), dtrain.maximum(a, c)], 1)
        x[:, 0] = 0
        return self.second(x) + self.first.weight.detach().sum()


class _Text(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.table = nn.Embedding(9, 12)
        self.rnn = cell(12, 12, batch_first=True)
        self.head = nn.Linear(12, 6)

    def forward(self, x):
        return self.head(self.rnn(self.table((x.abs() * 3).long().clamp(max=8)))[0].mean(1))


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(12, 3, 24, dropout=0.1, batch_first=True)
        self.head = nn.Linear(12, 6)

    def forward(self, x):
        return self.head(self.layer(x.reshape(len(x), 1, 12).expand(-1, 4, -1)).mean(1))


def _images():
    return nn.Sequential(
        nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.GroupNorm(2, 8), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, 6),
    )  # fmt: skip


def _plain():
    return nn.Sequential(
        nn.Linear(12, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 12), nn.BatchNorm1d(12),
        nn.SiLU(), nn.Linear(12, 12), nn.Softplus(), nn.RMSNorm(12), nn.PReLU(), nn.Linear(12, 6),
    )  # fmt: skip


MODELS = {
    "plain": _plain, "images": _images, "mixed": _Mixed, "attention": _Attention,
    "lstm": lambda: _Text(nn.LSTM), "gru": lambda: _Text(nn.GRU),
}  # fmt: skip
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.1, momentum=0.9), "adamw": lambda p: optim.AdamW(p, 0.01),
    "adafactor": lambda p: optim.Adafactor(p, 0.01),
}  # fmt: skip


def _batch(i, j=0, n=8):
    rng = np.random.default_rng((i, j))
    x, y = rng.standard_normal((n, 12)).astype(np.float32), rng.integers(0, 6, n)
    y[i % n] = -100  # ignored: what a loss decides by its labels
    return dtrain.tensor(x), dtrain.tensor(y)


def train(captured, model, optimizer, *, steps=8, comm=None, microbatches=1, bf16=False, zero_first=False):
    """Losses, and the bytes of all state, after steps with batches, learning rates and draws that all differ."""
    dtrain.manual_seed(0)
    model = MODELS[model]()
    wrapped = model if comm is None else dtrain.DistributedDataParallel(model, comm, microbatches)
    average = AveragedModel(model)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    def step(batches):
        if zero_first:
            optimizer.zero_grad()
        for x, y in batches:
            with dtrain.autocast("cpu", dtrain.bfloat16, enabled=bf16):
                loss = F.cross_entropy(wrapped(x), y)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        if not zero_first:
            model.zero_grad()
        return {"loss": loss, "norm": norm}

    run = dtrain.capture(step) if captured else step
    own, found = (range(1) if comm is None else wrapped.block), []
    for i in range(steps):
        made = run([_batch(i, j) for j in own])
        found += [made["loss"].item(), made["norm"].item()]
        if comm is not None:
            found.append(wrapped.loss)
        if i == 5:  # state that is loaded is the next step's
            model.load_state_dict({k: v * 0.5 if v.dtype == np.float32 else v for k, v in model.state_dict().items()})
    if captured:
        assert (run.captured, run.reason) == (1, None)
    state = [*model.state_dict().items(), *((f"mean.{k}", v) for k, v in average.state_dict().items())]
    state += [(f"{i}.{k}", v) for i, of in optimizer.state_dict()["state"].items() for k, v in of.items()]
    state += [(f"grad.{k}", p.grad) for k, p in model.named_parameters()]
    return found, {k: v.array.tobytes() if isinstance(v, dtrain.Tensor) else v for k, v in state}


@pytest.mark.parametrize("zero_first", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_captured_step_has_the_bits_of_the_step(model, optimizer, zero_first):
    options = {"zero_first": zero_first, "bf16": model in ("plain", "images") and zero_first}
    assert train(True, model, optimizer, **options) == train(False, model, optimizer, **options)


@pytest.mark.parametrize(("ranks", "microbatches"), [(1, 1), (1, 2), (2, 4)])
def test_under_distributed_data_parallel(ranks, microbatches):
    options = {"microbatches": microbatches}
    expected = run_ranks(ranks, lambda comm: train(False, "images", "sgd", comm=comm, **options))
    assert run_ranks(ranks, lambda comm: train(True, "images", "sgd", comm=comm, **options)) == expected


class _Kept:
    """What a step keeps from call to call."""


def _item(x, w):
    loss = (x * w).sum()
    loss.backward()
    return loss.item()


def _branch(x, w):
    loss = (x * w).sum()
    (loss if loss > 0 else -loss).backward()
    return loss


def _numpy(x, w):
    loss = (x * w * dtrain.from_numpy(np.full(3, 2.0, np.float32))).sum()
    loss.backward()
    return loss


def _array(x, w):
    loss = (x * w).sum()
    loss.backward()
    return dtrain.from_numpy(np.exp(loss.detach().reshape(1).numpy()))


def _count(x, w):
    loss = (_Kept.norm(x.reshape(1, 3).expand(2, -1)) * w).sum()
    loss.backward()
    return loss


def _keep(x, w):
    hidden = w if _Kept.last is None else w + _Kept.last
    loss = (x * hidden).sum()
    loss.backward()
    _Kept.last = hidden.detach()
    return loss


def _counting(x, w):
    _Kept.count += 1
    loss = (x[_Kept.count % 3 :] * w[_Kept.count % 3 :]).sum() * (1 / _Kept.count)
    loss.backward()
    return loss


def _selected(x, w):
    chosen = (x * w).masked_select(x > 0.75)  # as many in all calls but two
    loss = chosen.sum() / max(1, len(chosen))
    loss.backward()
    return loss


def _places(x, w):
    places = dtrain.nonzero(x > 0.75)[:, 0]
    loss = (x * w)[places].sum() / max(1, len(places))
    loss.backward()
    return loss


def _scaled(x, w):
    loss = (x * w).sum()
    _Kept.scaler.scale(loss).backward()
    return loss


def _workers_of(module):
    return dtrain.parallel.DiLoCo(module, optim.SGD(module.parameters(), 0.1), sync_every=2)


def _workers(x, w):
    loss = _Kept.workers(x).sum() + (x * w).sum()
    loss.backward()
    _Kept.workers.optimizer.step()
    return loss


def _checkpoint(x, w):
    loss = dtrain.utils.checkpoint.checkpoint(lambda x: x * w, x).sum()
    loss.backward()
    return loss


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (_item, "values are looked at"), (_branch, "values are looked at"), (_array, "values are looked at"),
        (_numpy, "by something else than"), (_keep, "keeps a tensor"), (_count, "values are looked at"),
        (_checkpoint, "checkpoint"), (_counting, "at every call"), (_scaled, "GradScaler"),
        (_selected, "sizes that depend on values"), (_places, "sizes that depend on values"), (_workers, "DiLoCo"),
    ],
)  # fmt: skip
def test_what_cannot_be_captured_runs_as_it_is_and_says_why(step, reason, capsys):
    found = []
    for captured in (False, True):
        _Kept.last, _Kept.norm, _Kept.count = None, nn.BatchNorm1d(3, momentum=None), 0
        dtrain.manual_seed(0)
        _Kept.scaler = dtrain.amp.GradScaler("cpu")
        _Kept.workers = _workers_of(nn.Linear(3, 2))
        w = dtrain.tensor([1.0, -2.0, 3.0], requires_grad=True)
        run = dtrain.capture(lambda x, w=w: step(x, w)) if captured else lambda x, w=w: step(x, w)
        values = [float(run(dtrain.tensor([1.0, i, -i]))) for i in (1.0, -2.0, 3.0, 0.5, -1.0, 2.0)]
        found.append((values, w.grad.array.tobytes()))
    assert found[0] == found[1]
    assert run.captured == 0
    assert reason in run.reason
    assert capsys.readouterr().err.count("the step is not captured") == 1


def test_errors_come_as_ever_and_spoil_nothing():
    dtrain.manual_seed(0)
    model = nn.Linear(12, 6)
    wrapped = dtrain.DistributedDataParallel(model, None)
    optimizer = optim.SGD(model.parameters(), 0.1)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(wrapped(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = dtrain.capture(step)
    for i in range(6):
        run(*_batch(i))
    assert run.captured == 1
    x, y = _batch(7)
    before = model.weight.array.copy()
    y[3] = 99
    with pytest.raises(IndexError, match="target 99 of sample 3"):
        run(x, y)
    assert np.array_equal(model.weight.array, before)
    # A walk that has failed is not under way any more.
    with pytest.raises(RuntimeError, match="no backward walk"):
        dtrain.autograd.backward_root()


def test_a_step_follows_its_modules_into_evaluation():
    dtrain.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Dropout(0.5))
    run, x = dtrain.capture(lambda x: model(x)), _batch(0)[0]
    for training in (True, False, True):
        model.train(training)
        results = {run(x).array.tobytes() for _ in range(6)}
        assert len(results) == (6 if training else 1)
        assert run.captured == 1 and run.reason is None
    assert results.isdisjoint({model.eval()(x).array.tobytes()})


def test_steps_of_several_kinds_and_memory_that_has_moved():
    model = nn.Linear(12, 6)
    run = dtrain.capture(lambda x, scale: model(x).sum() * scale)
    x = _batch(0)[0]
    for _ in range(6):
        assert run(x, 2.0).item() == (model(x).sum() * 2.0).item()
        assert run(x[:3], 3.0).item() == (model(x[:3]).sum() * 3.0).item()
    assert run.captured == 2
    assert "linear" in run.source
    model.weight.data = dtrain.zeros(6, 12, dtype=np.float64).to(np.float32) + 1
    model.double().float()
    for _ in range(6):
        assert run(x, 2.0).item() == (model(x).sum() * 2.0).item()
    assert run.reason is None
