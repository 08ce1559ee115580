"""MNIST and Fashion-MNIST: 28x28 grey images of 10 classes, 60,000 to train and 10,000 to test."""

from __future__ import annotations

import functools
import os
import sys
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dtrain.data.dataset import ArrayDataset
from dtrain.data.idx import read_images_and_labels
from dtrain.data.sources import Source, fetch, find
from dtrain.data.transforms import Compose, Context, Transform

__all__ = ["MNIST", "FashionMNIST"]


class MNIST(ArrayDataset):
    """Handwritten digits (LeCun, Cortes, Burges). Sample: x (1, 28, 28) float32, y an int.

    `transform` is given images in [0, 1]; the default normalises them by the training set's `mean`
    and `std`, (pixel / 255 - mean) / std. `.data` (N, 28, 28) uint8 and `.targets` (N,) int64 are
    the samples as stored, and `.origin` says where they came from.

    The files are looked for in `root` (or root/MNIST/raw, torchvision's layout) if it is given;
    else in $DTRAIN_DATA and its folder `mnist`, and in ~/.cache/dtrain/mnist. Where there are none,
    `download=True` gets them (into root/MNIST/raw, or the cache); else FileNotFoundError says what
    to do. Damaged files raise ValueError.
    """

    source: ClassVar[Source] = Source(
        name="MNIST",
        folder="mnist",
        raw="MNIST/raw",
        url="https://storage.googleapis.com/cvdf-datasets/mnist/",
        sha256=(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
    classes: ClassVar[list[str]] = [str(digit) for digit in range(10)]
    mean: ClassVar[float] = 0.1307
    std: ClassVar[float] = 0.3081
    how_to_get: ClassVar[str] = "pass download=True on a machine that is online"

    def __init__(
        self,
        root: str | Path | None = None,
        train: bool = True,
        transform: Transform | None = None,
        *,
        download: bool = False,
    ):
        files = find(self.source, train, root, downloading=download)
        if files is None and download:
            fetch(self.source, self.source.cache if root is None else self.source.places(root)[1])
            files = find(self.source, train, root)
        if files is not None:
            self.origin = str(files[0].parent)
            self.data, self.targets = self._read(*files)
        elif root is None:
            self.data, self.targets = self._without_files(train)
        else:
            raise FileNotFoundError(self._nowhere(train, root))
        self.train = train
        super().__init__(self.data, self.targets, transform=self._from_pixels(transform))

    def _from_pixels(self, transform: Transform | None) -> Transform:
        if transform is None:
            return _Pixels(self.mean, self.std)
        return Compose([_Pixels(), transform])

    def _read(self, images: Path, labels: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        try:
            data, targets = read_images_and_labels(images, labels, len(self.classes))
        except ValueError as error:
            raise ValueError(f"{error}; delete the file, and {self.how_to_get}") from None
        # Both datasets have the same file names: one taken for the other would train unnoticed.
        actual = _FIRST_LABELS.get(targets[:10].astype(np.uint8).tobytes())
        if actual not in (None, self.source.name):
            raise ValueError(f"{labels}: found {actual}'s labels, expected {self.source.name}'s")
        return data, targets

    def _without_files(self, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        raise FileNotFoundError(self._nowhere(train))

    def _nowhere(self, train: bool, root: str | Path | None = None) -> str:
        part = "train" if train else "t10k"
        folders = ", ".join(map(str, self.source.places(root)))
        return (
            f"{self.source.name}: found no {part}-images-idx3-ubyte(.gz) and "
            f"{part}-labels-idx1-ubyte(.gz) in {folders}; copy the files there"
            f"{'' if root is None else ', leave out root'} or {self.how_to_get}"
        )


class FashionMNIST(MNIST):
    """Clothes by Zalando Research (arXiv:1708.07747), stored and looked for as MNIST is.

    More places: root/FashionMNIST/raw, the folder `fashion-mnist` below $DTRAIN_DATA, Debian's
    /usr/share/datasets/fashion-mnist, ~/.cache/dtrain/fashion-mnist. Where no place has the files
    and no root is given, it is a subset within this package: the first 600 training and 100 test
    images of each class; one line on stderr says so.
    """

    source: ClassVar[Source] = Source(
        name="Fashion-MNIST",
        folder="fashion-mnist",
        raw="FashionMNIST/raw",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        # Of the decompressed content: Debian's files are compressed anew.
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        installed=("/usr/share/datasets/fashion-mnist",),
    )
    classes: ClassVar[list[str]] = [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ]
    mean: ClassVar[float] = 0.2860
    std: ClassVar[float] = 0.3530
    how_to_get: ClassVar[str] = "run python -m dtrain.data.fashion_mnist"

    def _without_files(self, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        self.origin = "the subset embedded in dtrain"
        _say_once(
            "dtrain: Fashion-MNIST is not on this machine: using the embedded subset of 6,000 "
            f"training and 1,000 test images; for all 70,000, {self.how_to_get}"
        )
        part = "train" if train else "test"
        file = resources.files("dtrain.data") / "fashion_mnist_subset.npz"
        with file.open("rb") as stream, np.load(stream) as arrays:
            return arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int64)


_FIRST_LABELS = {
    bytes([5, 0, 4, 1, 9, 2, 1, 3, 1, 4]): "MNIST",
    bytes([7, 2, 1, 0, 4, 1, 4, 9, 5, 9]): "MNIST",
    bytes([9, 0, 0, 3, 0, 2, 7, 2, 5, 5]): "Fashion-MNIST",
    bytes([9, 2, 1, 1, 6, 1, 4, 6, 5, 7]): "Fashion-MNIST",
}


class _Pixels:
    """(pixel / 255 - mean) / std: (N, H, W) uint8 -> (N, 1, H, W) float32."""

    def __init__(self, mean: float = 0.0, std: float = 1.0):
        # A byte has 256 values: a table is exact, and needs no temporary arrays.
        self.values = ((np.arange(256) / 255 - mean) / std).astype(np.float32)

    def __call__(self, x: NDArray[Any], context: Context) -> NDArray[np.float32]:
        return self.values.take(x)[:, None]


@functools.cache
def _say_once(line: str) -> None:
    """Print to stderr, on the first rank only if the launcher's environment tells the rank."""
    ranks = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
    if all(os.environ.get(name, "0") == "0" for name in ranks):
        print(line, file=sys.stderr, flush=True)
