"""Datasets made of others, samplers, and generators: as in PyTorch, and the same on any number of ranks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import dtrain
from dtrain.comm import run_ranks
from dtrain.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)


class Squares(Dataset):
    """A dataset that takes one sample at a time."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> int:
        return index**2


def test_tensors_subsets_and_sums_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data
    x, y = np.arange(20, dtype=np.float32).reshape(10, 2), np.arange(10)
    ours = TensorDataset(dtrain.tensor(x), dtrain.tensor(y))
    theirs = data.TensorDataset(torch.tensor(x), torch.tensor(y))
    pairs = [
        (ours, theirs),
        (Subset(ours, [3, 1, 8]), data.Subset(theirs, [3, 1, 8])),
        (ours + Subset(ours, [2]), theirs + data.Subset(theirs, [2])),
        (Subset(ConcatDataset([ours, ours]), [12, 0]), data.Subset(data.ConcatDataset([theirs, theirs]), [12, 0])),
    ]
    for mine, reference in pairs:
        assert len(mine) == len(reference)
        for i in (0, len(mine) - 1, -1):
            for a, b in zip(mine[i], reference[i], strict=True):
                assert a.shape == tuple(b.shape) and np.array_equal(a.numpy(), b.numpy())
        batches = zip(DataLoader(mine, 4), data.DataLoader(reference, 4), strict=True)
        assert all(np.array_equal(a.numpy(), b.numpy()) for m, r in batches for a, b in zip(m, r, strict=True))
    with pytest.raises(IndexError):
        (ours + ours)[20]
    with pytest.raises(ValueError, match="at least one"):
        ConcatDataset([])


def test_a_subset_takes_batches_with_the_transforms_of_the_whole() -> None:
    def shifted(x, context):
        return x + np.array([draw.random() for draw in context.streams()], np.float32)[:, None]

    whole = dtrain.data.ArrayDataset(np.zeros((9, 1), np.float32), np.arange(9), transform=shifted)
    by_number = {int(i): x for xs, ys in DataLoader(whole, 4) for x, i in zip(xs.numpy(), ys.numpy(), strict=True)}
    for part in (Subset(whole, [7, 2, 5]), Subset(Subset(whole, [0, 5, 2, 7]), [3, 2, 1])):
        x, y = next(iter(DataLoader(part, 3)))
        assert y.tolist() == [7, 2, 5] and [by_number[i] for i in (7, 2, 5)] == x.numpy().tolist()
    assert Subset(Squares(), [6, 2])[0] == 36 and next(iter(DataLoader(Subset(Squares(), [6, 2]), 2))).tolist() == [
        36,
        4,
    ]


@pytest.mark.parametrize("lengths", [[4, 3], [0.5, 0.3, 0.2], [1.0], [7], [0.4, 0.6]])
def test_a_random_split_has_the_lengths_of_pytorch(lengths: list[float]) -> None:
    torch = pytest.importorskip("torch")
    parts = random_split(Squares(), lengths)
    assert [len(p) for p in parts] == [len(p) for p in torch.utils.data.random_split(range(7), lengths)]
    assert sorted(i for part in parts for i in part.indices) == list(range(7))
    again = random_split(Squares(), lengths)
    assert [p.indices for p in again] == [p.indices for p in parts], "a function of the seed: alike on all ranks"
    with_generator = [random_split(Squares(), lengths, dtrain.Generator().manual_seed(5)) for _ in range(2)]
    assert [p.indices for p in with_generator[0]] == [p.indices for p in with_generator[1]]


def test_lengths_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="their sum must be 7"):
        random_split(Squares(), [4, 4])


SAMPLERS = {
    "sequential": lambda n: SequentialSampler(range(n)),
    "random": lambda n: RandomSampler(range(n)),
    "more than there are": lambda n: RandomSampler(range(n), num_samples=2 * n + 3),
    "with replacement": lambda n: RandomSampler(range(n), replacement=True, num_samples=50),
    "subset": lambda n: SubsetRandomSampler([1, 4, 9, 12, 13, 17]),
    "weighted": lambda n: WeightedRandomSampler([0.0, 1.0, 3.0] * 7, 30),
    "weighted, no repetition": lambda n: WeightedRandomSampler([0.0, 1.0, 3.0] * 7, 14, replacement=False),
    "a generator's": lambda n: RandomSampler(range(n), generator=dtrain.Generator().manual_seed(3)),
    "a list": lambda n: [3, 3, 0, 20, 7],
}


def steps_of(ranks: int, sampler, state=None, epochs: int = 1) -> list[list[int]]:
    """The samples of each step of the last of these epochs, all ranks' together."""
    of_ranks = []
    for rank in range(ranks):
        comm = SimpleNamespace(rank=rank, size=ranks, microbatches=3)
        loader = DataLoader(range(21), 4, sampler=sampler(21), comm=comm)
        if state is not None:
            loader.load_state_dict(state)
        for _ in range(epochs):
            batches = [batch.tolist() for batch in loader]
        own = len(loader.own_microbatches)
        of_ranks.append([sum(batches[i : i + own], []) for i in range(0, len(batches), own)])
    return [sum(parts, []) for parts in zip(*of_ranks, strict=True)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_give_any_number_of_ranks_the_same_steps(name: str) -> None:
    sampler = SAMPLERS[name]
    steps = steps_of(1, sampler)
    taken = sum(steps, [])
    assert len(taken) == len(sampler(21)) and all(len(step) == 4 for step in steps[:-1])
    assert steps_of(2, sampler) == steps_of(3, sampler) == steps
    second = steps_of(1, sampler, epochs=2)
    assert (second == steps) == (name in ("sequential", "a list")), "each epoch is drawn anew"
    resumed = steps_of(3, sampler, state={"epoch": 1, "samples_consumed": 4})
    assert resumed == second[1:], "also in the middle of an epoch"
    if "weighted" in name:
        assert all(i % 3 for i in taken), "weight 0 is never drawn"
    if name in ("random", "subset", "weighted, no repetition", "a generator's"):
        assert len(set(taken)) == len(taken)
    if name == "more than there are":
        assert sorted(taken[:21]) == list(range(21))


def test_ranks_whose_samplers_differ_are_told_so() -> None:
    def run(comm):
        class Own(Sampler):
            """Draws from a generator that each rank has seeded for itself."""

            def __len__(self) -> int:
                return 7

            def __iter__(self):
                return iter(np.random.default_rng(comm.rank).permutation(7).tolist())

        with pytest.raises(ValueError, match="disagree about the loader's sampler") as caught:
            DataLoader(Squares(), 4, sampler=Own(), comm=comm)
        DataLoader(Squares(), 4, sampler=RandomSampler(Squares()), comm=comm)
        return str(caught.value)

    assert len(set(run_ranks(3, run))) == 1, "the same message on every rank"


def test_weights_are_the_probabilities() -> None:
    drawn = list(WeightedRandomSampler([1.0, 3.0, 0.0, 4.0], 8000))
    counts = np.bincount(drawn, minlength=4) / 8000
    assert np.abs(counts - [1 / 8, 3 / 8, 0, 1 / 2]).max() < 0.02


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DataLoader(Squares(), 2, shuffle=True, sampler=[1]), "leave shuffle=True away"),
        (lambda: DataLoader(Squares(), 2, sampler=[]), "the sampler is empty"),
        (lambda: RandomSampler(Squares(), num_samples=0), "num_samples must be at least 1"),
        (lambda: WeightedRandomSampler([1.0, -1.0], 2), "finite, not negative"),
        (lambda: WeightedRandomSampler([1.0, 0.0], 2, replacement=False), "1 weights are above 0"),
        (lambda: list(DataLoader(Squares(), 2, sampler=[0, 7])), "gives number 7, and the dataset has samples 0 to 6"),
        (lambda: list(DataLoader(Squares(), 2, sampler=Short())), "gives 1 numbers, and its length was 2"),
    ],
)
def test_bad_input_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


class Short(Sampler):
    def __len__(self) -> int:
        return 2

    def __iter__(self):
        return iter([0])


def test_a_generator_is_a_function_of_its_seed() -> None:
    a, b = dtrain.Generator(), dtrain.Generator().manual_seed(4)
    assert a.manual_seed(4) is a and a.initial_seed() == 4 and a.random() == b.random() != a.random()
    weight = [dtrain.nn.init.normal_(dtrain.empty(3), generator=dtrain.Generator().manual_seed(1)) for _ in range(2)]
    assert np.array_equal(weight[0].numpy(), weight[1].numpy())


def test_pytorchs_paths() -> None:
    from dtrain.nn.parallel import DistributedDataParallel

    assert DistributedDataParallel is dtrain.DistributedDataParallel and DataLoader is dtrain.data.DataLoader
    assert len(list(DataLoader(Squares(), 4, pin_memory=True, persistent_workers=True))) == 2
