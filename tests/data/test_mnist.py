"""Finding, reading, checking and downloading MNIST and Fashion-MNIST; the embedded subset."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path

import numpy as np
import pytest

from dtrain import data
from dtrain.data import fashion_mnist, mnist
from dtrain.data.sources import fetch

from .idx_files import idx_bytes, write_idx_set


def test_subset_is_used_and_said_once(nowhere, capfd):
    train, test = data.FashionMNIST(train=True), data.FashionMNIST(train=False)
    for dataset, of_each in ((train, 600), (test, 100)):
        np.testing.assert_array_equal(np.bincount(dataset.targets), [of_each] * 10)
        assert dataset.data.shape == (of_each * 10, 28, 28)
        assert dataset.data.dtype == np.uint8
        assert dataset.targets.dtype == np.int64
    assert train.targets[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "embedded subset of 6,000" in lines[0]
    assert "python -m dtrain.data.fashion_mnist" in lines[0]
    assert "subset" in train.origin


def test_subset_is_said_by_the_first_rank_only(nowhere, capfd, monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    data.FashionMNIST()
    assert capfd.readouterr().err == ""


def test_samples_are_normalised(nowhere):
    dataset = data.FashionMNIST(train=False)
    x, label = dataset[3]
    assert (x.shape, x.dtype, label) == ((1, 28, 28), np.float32, int(dataset.targets[3]))
    expected = (dataset.data[3] / 255 - 0.2860) / 0.3530
    np.testing.assert_allclose(x.array[0], expected, rtol=1e-6, atol=1e-7)
    (batch,) = data.DataLoader(dataset, len(dataset))
    np.testing.assert_array_equal(batch[0].array[3], x.array)
    assert abs(batch[0].array.mean()) < 0.02
    assert abs(batch[0].array.std() - 1) < 0.02


def test_a_transform_is_given_images_between_0_and_1(nowhere):
    plain = data.FashionMNIST(train=False)
    same = data.FashionMNIST(train=False, transform=data.Normalize(plain.mean, plain.std))
    np.testing.assert_allclose(same[0][0].array, plain[0][0].array, rtol=1e-5, atol=1e-6)
    raw = data.FashionMNIST(train=False, transform=data.Compose([]))[0][0].array
    np.testing.assert_array_equal(raw[0], (plain.data[0] / 255).astype(np.float32))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("cls", "root", "own", "folder"),
    [
        (data.FashionMNIST, "r", None, "r"),
        (data.FashionMNIST, "r", None, "r/FashionMNIST/raw"),
        (data.FashionMNIST, None, "d", "d"),
        (data.FashionMNIST, None, "d", "d/fashion-mnist"),
        (data.FashionMNIST, None, "empty", "xdg/dtrain/fashion-mnist"),
        (data.MNIST, "r", "d", "r/MNIST/raw"),
        (data.MNIST, None, "d", "d/mnist"),
        (data.MNIST, None, None, "xdg/dtrain/mnist"),
    ],
)
def test_places(nowhere, tmp_path, monkeypatch, cls, root, own, folder, packed):
    write_idx_set(tmp_path / folder, packed=packed)
    if own:
        monkeypatch.setenv("DTRAIN_DATA", str(tmp_path / own))
    dataset = cls(root and tmp_path / root, train=False)
    assert dataset.origin == str(tmp_path / folder)
    assert dataset.targets.tolist() == list(range(10))
    assert (dataset.data[7] == 7).all()
    assert len(cls(root and tmp_path / root)) == 20


def test_a_root_without_files_is_an_error(nowhere, tmp_path):
    with pytest.raises(FileNotFoundError, match="found no train-images.*FashionMNIST/raw"):
        data.FashionMNIST(tmp_path)


def test_mnist_has_no_subset(nowhere, monkeypatch, tmp_path):
    monkeypatch.setenv("DTRAIN_DATA", str(tmp_path / "own"))
    with pytest.raises(FileNotFoundError) as caught:
        data.MNIST(train=False)
    for place in (tmp_path / "own/mnist", tmp_path / "own", nowhere / "mnist"):
        assert str(place) in str(caught.value)
    assert "download=True" in str(caught.value)


def test_half_a_data_set_is_an_error(nowhere, tmp_path):
    write_idx_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="has train-images-.* neither train-labels-"):
        data.FashionMNIST(tmp_path)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def truncated_gzip(folder: Path) -> None:
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-20])


def damaged_gzip(folder: Path) -> None:
    content = bytearray((folder / f"{IMAGES}.gz").read_bytes())
    content[-6] ^= 255  # the checksum
    (folder / f"{IMAGES}.gz").write_bytes(content)


def replace(name: str, content: bytes):
    def write(folder: Path) -> None:
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))

    return write


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (truncated_gzip, IMAGES, "damaged or truncated gzip"),
        (damaged_gzip, IMAGES, "damaged or truncated gzip"),
        (
            replace(IMAGES, idx_bytes(np.zeros((20, 28, 28)))[:-1]),
            IMAGES,
            r"found 15695 bytes, expected 15696 for shape \(20, 28, 28\)",
        ),
        (replace(IMAGES, b"<html>"), IMAGES, "found magic number 0x3c68746d, expected 0x00000803"),
        (replace(IMAGES, b"\0\0\x08\x03\0"), IMAGES, "found 5 bytes, expected a header of 16"),
        (replace(IMAGES, b""), IMAGES, "found magic number 0x, expected 0x00000803"),
        (
            replace(IMAGES, idx_bytes(np.zeros((20, 32, 32)))),
            IMAGES,
            r"images of \(32, 32\) pixels, expected \(28, 28\)",
        ),
        (replace(LABELS, idx_bytes(np.zeros(19))), LABELS, "found 19 labels, expected 20"),
        (replace(LABELS, idx_bytes(np.full(20, 10))), LABELS, "found label 10, expected 0 to 9"),
    ],
)
def test_bad_files(tmp_path, damage, name, message):
    write_idx_set(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        data.FashionMNIST(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert "delete the file, and run python -m dtrain.data.fashion_mnist" in str(caught.value)


def test_one_data_set_is_not_taken_for_the_other(tmp_path):
    write_idx_set(tmp_path)
    labels = np.array([9, 0, 0, 3, 0, 2, 7, 2, 5, 5] * 2)
    replace(LABELS, idx_bytes(labels))(tmp_path)
    assert len(data.FashionMNIST(tmp_path)) == 20
    with pytest.raises(ValueError, match="found Fashion-MNIST's labels, expected MNIST's"):
        data.MNIST(tmp_path)


@pytest.mark.parametrize("root", [None, "r"])
def test_download(server, nowhere, tmp_path, root, capfd):
    dataset = data.FashionMNIST(root and tmp_path / root, download=True)
    folder = tmp_path / "r/FashionMNIST/raw" if root else nowhere / "fashion-mnist"
    assert dataset.origin == str(folder)
    assert {f.name for f in folder.iterdir()} == {".lock", *(f.name for f in server.iterdir())}
    for file in server.iterdir():
        file.unlink()
    data.FashionMNIST(root and tmp_path / root, download=True)  # needs no second download
    assert capfd.readouterr().err.count("downloading") == 4


def test_a_download_completes_half_a_data_set(server, tmp_path):
    write_idx_set(tmp_path / "FashionMNIST/raw")
    (tmp_path / "FashionMNIST/raw/train-labels-idx1-ubyte.gz").unlink()
    assert len(data.FashionMNIST(tmp_path, download=True)) == 20


def test_one_of_several_processes_downloads(server, nowhere, capfd):
    source, folder = mnist.FashionMNIST.source, nowhere / "fashion-mnist"
    # The lock is on an open file, so threads exclude each other as processes do.
    ranks = [threading.Thread(target=fetch, args=(source, folder)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(data.FashionMNIST()) == 20
    assert capfd.readouterr().err.count("downloading") == 4


def test_a_wrong_download_is_refused(server, nowhere):
    (server / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(ValueError, match="found 26 bytes with sha256 .* what was sent is not"):
        data.FashionMNIST(download=True)
    left = {f.name for f in (nowhere / "fashion-mnist").iterdir()}
    assert "t10k-labels-idx1-ubyte.gz" not in left
    assert not any(name.endswith(".part") for name in left)


def test_a_failed_download_says_what_to_do(server, nowhere):
    (server / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(OSError, match="could not download .*train-images.*copy the file into"):
        data.FashionMNIST(download=True)


class TestCommand:
    """python -m dtrain.data.fashion_mnist"""

    def test_found(self, nowhere, capsys):
        write_idx_set(nowhere / "fashion-mnist")
        fashion_mnist.main([])
        assert f"20 images found in {nowhere / 'fashion-mnist'}" in capsys.readouterr().out

    def test_downloaded_where_there_is_no_debian(self, server, nowhere, capsys, monkeypatch):
        monkeypatch.setenv("PATH", "")
        fashion_mnist.main([])
        out = capsys.readouterr().out
        assert "there is no apt-get" in out
        assert f"10 images found in {nowhere / 'fashion-mnist'}" in out

    def test_neither(self, server, capsys, monkeypatch):
        monkeypatch.setenv("PATH", "")
        (server / "train-labels-idx1-ubyte.gz").unlink()
        fashion_mnist.main([])
        assert capsys.readouterr().out.splitlines()[-1].endswith("images will be used")

    def test_debian(self, server, nowhere, tmp_path, monkeypatch, capsys):
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, action in (
            ("apt-get", "echo > set.deb"),
            ("dpkg-deb", f"mkdir -p usr; cp {server}/* usr"),
        ):
            (programs / name).write_text(f"#!/bin/sh\n{action}\n")
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        fashion_mnist.main([])
        captured = capsys.readouterr()
        assert f"20 images found in {nowhere / 'fashion-mnist'}" in captured.out
        assert "downloading" not in captured.err

    def test_debian_fails(self, server, tmp_path, monkeypatch, capsys):
        for name in ("apt-get", "dpkg-deb"):
            (tmp_path / name).write_text("#!/bin/sh\necho E: no such package >&2\nexit 100\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        fashion_mnist.main([])
        out = capsys.readouterr().out
        assert "apt-get download failed: E: no such package" in out
        assert "20 images found" in out

    def test_damaged_files_are_an_error(self, nowhere):
        write_idx_set(nowhere / "fashion-mnist")
        truncated_gzip(nowhere / "fashion-mnist")
        with pytest.raises(SystemExit, match="damaged or truncated gzip"):
            fashion_mnist.main([])

    def test_subset_is_reproducible(self, nowhere, tmp_path):
        fashion_mnist.main(["--make-subset", str(tmp_path / "subset.npz")])
        with np.load(tmp_path / "subset.npz") as again:
            for part, train in (("train", True), ("test", False)):
                subset = data.FashionMNIST(train=train)
                np.testing.assert_array_equal(again[f"{part}_images"], subset.data)
                np.testing.assert_array_equal(again[f"{part}_labels"], subset.targets)
