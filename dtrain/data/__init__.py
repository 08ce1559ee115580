"""Datasets, transforms, and the loader that gives every rank its microbatches.

May import `dtrain.backend` and `dtrain.autograd`; knows nothing of MPI: a communicator is anything
with `rank` and `size`. Read `sampler.py` first (which samples go where: the part of the promise
"same bits at any rank count" that lives here), then `loader.py`.
"""

from dtrain.data.collate import default_collate
from dtrain.data.combined import ConcatDataset, Subset, TensorDataset, random_split
from dtrain.data.dataset import ArrayDataset, Dataset
from dtrain.data.drawn import (
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from dtrain.data.japanese_vowels import JapaneseVowels
from dtrain.data.loader import DataLoader
from dtrain.data.mnist import MNIST, FashionMNIST
from dtrain.data.text import CharacterText, KingJames
from dtrain.data.transforms import (
    Compose,
    Context,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    Transform,
)

__all__ = [
    "MNIST",
    "ArrayDataset",
    "CharacterText",
    "Compose",
    "ConcatDataset",
    "Context",
    "DataLoader",
    "Dataset",
    "FashionMNIST",
    "JapaneseVowels",
    "KingJames",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "Transform",
    "WeightedRandomSampler",
    "default_collate",
    "random_split",
]
