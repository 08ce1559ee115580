"""The loader: the same steps on any number of ranks, resumable, and no thread left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import traceback
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtrain
from dtrain.autograd import Tensor
from dtrain.backend.random import manual_seed
from dtrain.comm import run_ranks
from dtrain.data import ArrayDataset, DataLoader


def numbers(n: int) -> ArrayDataset:
    """Sample i is (float32 [i, i], int64 i)."""
    return ArrayDataset(np.repeat(np.arange(n, dtype=np.float32), 2).reshape(n, 2), np.arange(n))


def loader_of(rank: int, size: int, microbatches: int, n: int, batch_size: int, **options):
    comm = SimpleNamespace(rank=rank, size=size, microbatches=microbatches)
    return DataLoader(numbers(n), batch_size, shuffle=True, comm=comm, **options)


def steps_of(loader: DataLoader) -> list[list[tuple[int, list[int]]]]:
    """The rest of an epoch, step by step: (microbatch, samples) of each batch."""
    batches = [(y.microbatch[0], y.array.tolist()) for x, y in loader]
    own = len(loader.own_microbatches)
    return [batches[i : i + own] for i in range(0, len(batches), own)]


def all_ranks(size: int, microbatches: int, n: int, batch_size: int, state=None, epochs=1):
    """The steps of the last of `epochs` epochs, those of the ranks joined in order of rank."""
    loaders = [loader_of(r, size, microbatches, n, batch_size, prefetch=0) for r in range(size)]
    for loader in loaders:
        if state is not None:
            loader.load_state_dict(state)
        for _ in range(epochs - 1):
            steps_of(loader)
    return [sum(parts, []) for parts in zip(*map(steps_of, loaders), strict=True)]


SIZES = st.tuples(st.integers(1, 12), st.integers(1, 60), st.integers(1, 30)).flatmap(
    lambda s: st.tuples(*map(st.just, s), st.integers(1, s[0]))
)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.data())
def test_steps_do_not_depend_on_the_number_of_ranks(sizes, draw):
    microbatches, n, batch_size, size = sizes
    alone = all_ranks(1, microbatches, n, batch_size)
    assert all_ranks(size, microbatches, n, batch_size) == alone
    taken = [sample for step in alone for _, samples in step for sample in samples]
    assert sorted(taken) == list(range(n))  # every sample once: none padded, none left out
    # Stopped after any step and resumed on other ranks, the rest is the same.
    step = draw.draw(st.integers(0, len(alone) - 1))
    state = {"epoch": 0, "samples_consumed": step * batch_size}
    assert all_ranks(size, microbatches, n, batch_size, state) == alone[step:]
    assert all_ranks(size, microbatches, n, batch_size, state, epochs=2) == all_ranks(
        1, microbatches, n, batch_size, epochs=2
    )


@pytest.mark.parametrize("dataset", [numbers(9), [(np.float32([i, i]), i) for i in range(9)]])
def test_a_microbatch_without_samples_has_its_turn(dataset):
    loader = DataLoader(dataset, 7, microbatches=5)  # steps of 7 and of 2 samples
    assert len(loader) == len(list(loader)) == 10
    x, y = list(loader)[-1]
    assert (x.shape, x.dtype) == ((0, 2), np.float32)
    assert (y.shape, y.dtype) == ((0,), np.int64)
    assert x.microbatch == y.microbatch == (4, 5)
    assert [len(x.array) for x, _ in loader] == [2, 2, 1, 1, 1, 1, 1, 0, 0, 0]


def test_a_batch_smaller_than_the_microbatches(capfd):
    loaders = [loader_of(rank, 3, 5, n=4, batch_size=2) for rank in range(3)]
    assert [len(y.array) for loader in loaders for _, y in loader] == [1, 1] + [1, 0, 1, 0] + [0, 0, 0, 0]
    said = capfd.readouterr().err
    assert said == "dtrain: batch_size 2 is that of all ranks together; of a step's 5 microbatches 3 have no samples\n"


def test_empty_microbatch_of_any_structure():
    samples = [{"x": np.zeros(3), "name": "a", "pair": [1, 2.0]}] * 3
    batch = list(DataLoader(samples, 2, microbatches=2))[-1]
    assert batch["x"].shape == (0, 3)
    assert batch["x"].microbatch == (1, 2)
    assert batch["name"] == []
    assert [member.shape for member in batch["pair"]] == [(0,), (0,)]


@pytest.mark.parametrize("threads", [{"prefetch": 0}, {"num_workers": 0}, {"num_workers": 4}, {}])
@pytest.mark.parametrize("dataset", [numbers(40), list(range(40))])
def test_order_is_kept_by_threads(dataset, threads):
    loader = DataLoader(dataset, 4, microbatches=2, **threads)
    last = [batch[-1] if isinstance(batch, tuple) else batch for batch in loader]
    assert np.concatenate([y.array for y in last]).tolist() == list(range(40))


def test_default_microbatches_and_seed():
    dataset = numbers(8)
    assert DataLoader(dataset).microbatches == 1
    two_ranks = SimpleNamespace(rank=1, size=2)
    assert DataLoader(dataset, 4, comm=two_ranks).microbatches == 2
    two_ranks.microbatches = 3
    assert list(DataLoader(dataset, 4, comm=two_ranks).own_microbatches) == [1, 2]
    assert list(DataLoader(dataset, 4, comm=two_ranks, microbatches=4).own_microbatches) == [2, 3]
    manual_seed(11)
    assert DataLoader(dataset).seed == 11
    manual_seed(0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"batch_size": 64, "microbatches": 8, "comm": SimpleNamespace(rank=0, size=64)},
            ValueError,
            "64 ranks but 8 microbatches",
        ),
        ({"dataset": []}, ValueError, "dataset is empty"),
        ({"dataset": iter([1])}, TypeError, "needs __len__ and __getitem__"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number, got 2.5"),
        ({"batch_size": True}, TypeError, "batch_size must be a whole number"),
        ({"microbatches": 0}, ValueError, "microbatches must be at least 1"),
        ({"prefetch": -1}, ValueError, "prefetch must be at least 0"),
        ({"batch_size": 9, "drop_last": True}, ValueError, "5 samples, batch_size 9"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        DataLoader(**({"dataset": [1, 2, 3, 4, 5]} | options))


def test_drop_last():
    loader = DataLoader(list(range(10)), 4, drop_last=True)
    assert [batch.array.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert loader.state_dict() == {"epoch": 1, "samples_consumed": 0}


def test_state_counts_whole_steps_that_were_handed_out():
    loader = loader_of(1, 2, 4, n=10, batch_size=4)  # two microbatches a step, three steps
    consumed = [(loader.samples_consumed, loader.state_dict()["epoch"]) for _ in loader]
    assert consumed == [(0, 0), (4, 0), (4, 0), (8, 0), (8, 0), (10, 1)]
    assert loader.state_dict() == {"epoch": 1, "samples_consumed": 0}


def test_each_iter_is_the_next_epoch():
    loader = loader_of(0, 1, 1, n=20, batch_size=4)
    first, second = steps_of(loader), steps_of(loader)
    assert first != second
    assert loader.epoch == 1
    loader.set_epoch(0)
    assert steps_of(loader) == first
    for _ in loader:  # leaving an epoch early ends it, as in PyTorch
        break
    assert loader.epoch == 1
    loader.set_epoch(1)
    assert steps_of(loader) == second


def test_an_abandoned_iterator_does_not_move_the_state():
    loader = loader_of(0, 1, 1, n=20, batch_size=4)
    old = iter(loader)
    new = iter(loader)
    next(new)
    list(old)
    assert loader.state_dict() == {"epoch": 1, "samples_consumed": 4}
    assert len(list(new)) == 4


def test_set_epoch_keeps_a_resumed_position():
    loader = loader_of(0, 1, 1, n=20, batch_size=4)
    loader.load_state_dict({"epoch": 2, "samples_consumed": 8})
    loader.set_epoch(2)
    assert len(steps_of(loader)) == 3
    loader.set_epoch(2)
    assert len(steps_of(loader)) == 5


@pytest.mark.parametrize("consumed", [3, 20, 24])
def test_a_state_of_other_steps_is_refused(consumed):
    loader = loader_of(0, 1, 1, n=20, batch_size=4)
    with pytest.raises(ValueError, match=f"samples_consumed {consumed} is not between two steps"):
        loader.load_state_dict({"epoch": 0, "samples_consumed": consumed})


class Failing:
    """Sample 5 cannot be read."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if i == 5:
            raise KeyError("sample five is broken")
        return i


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_an_exception_comes_in_its_turn_with_its_traceback(num_workers):
    loader = DataLoader(Failing(), 2, num_workers=num_workers)
    seen = []
    with pytest.raises(KeyError, match="sample five is broken") as caught:
        seen.extend(batch.array.tolist() for batch in loader)
    assert seen == [[0, 1], [2, 3]]
    assert any(frame.name == "__getitem__" for frame in traceback.extract_tb(caught.tb))
    assert loader.state_dict() == {"epoch": 0, "samples_consumed": 4}
    assert loader_threads() == []


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("dtrain-loader")]


@pytest.mark.parametrize("leave", ["break", "raise", "forget", "exhaust"])
def test_no_thread_is_left_behind(leave):
    loader = DataLoader(numbers(100), 2, num_workers=3)
    if leave == "forget":
        iterator = iter(loader)
        next(iterator)
        assert loader_threads() != []
        del iterator
        gc.collect()
    elif leave == "raise":
        with pytest.raises(ZeroDivisionError):
            [1 / 0 for _ in loader]
    else:
        for _ in loader:
            if leave == "break":
                break
    assert loader_threads() == []


def test_the_interpreter_exits_in_the_middle_of_an_epoch():
    program = (
        "from dtrain.data import DataLoader\n"
        "batches = iter(DataLoader(list(range(1000)), num_workers=2))\n"
        "print(next(batches).array.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0]\n", "")


def test_collate_fn_is_given_lists_of_samples():
    def total(samples):
        return Tensor(np.array([sum(y for _, y in samples)])), "as it is"

    batches = list(DataLoader(numbers(5), 2, collate_fn=total, microbatches=2))
    assert [(x.array.tolist(), x.microbatch, text) for x, text in batches] == [
        ([0], (0, 2), "as it is"),
        ([1], (1, 2), "as it is"),
        ([2], (0, 2), "as it is"),
        ([3], (1, 2), "as it is"),
        ([4], (0, 2), "as it is"),
        ([], (1, 2), "as it is"),
    ]


def test_what_samples_draw_does_not_depend_on_ranks_or_threads():
    class Noisy:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            return dtrain.randn(2)

    def epochs(comm, **options):
        loader = DataLoader(Noisy(), 5, comm=comm, microbatches=3, seed=1, **options)
        return [[row for x in loader for row in x.tolist()] for _ in range(2)]

    (want,) = run_ranks(1, epochs)
    assert want[0] != want[1] and len({tuple(row) for epoch in want for row in epoch}) == 20
    assert run_ranks(1, lambda comm: epochs(comm, num_workers=0)) == [want]
    parts = run_ranks(3, lambda comm: epochs(comm, num_workers=2))
    assert sorted(row for part in parts for row in part[1]) == sorted(want[1])


def test_ranks_that_disagree_are_told_so():
    def run(comm):
        with pytest.raises(ValueError, match="ranks disagree") as caught:
            DataLoader(range(8 + comm.rank), 4, comm=comm)
        return str(caught.value)

    for message in run_ranks(2, run):
        assert "samples: rank 0 has 8, rank 1 has 9" in message
