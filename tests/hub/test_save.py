"""dtrain.save: what it writes, PyTorch and dtrain read; what it refuses; nothing half-written."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn, optim
from dtrain.optim import lr_scheduler

from .test_load import same


def trained() -> dict[str, Any]:
    """A checkpoint after two steps, as people write them."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    for _ in range(2):
        model(dtrain.randn(8, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    return {**states, "epoch": 3, "best": 0.5, "name": "Größe", "history": [(1, 0.25), (2, float("nan"))], "ema": None}


def everything() -> dict[Any, Any]:
    shared = [1]
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    return {
        "numbers": [0, -1, 255, 2**31, -(2**31), -(2**31) - 1, 2**63, -(2**63), 2**100, -0.5, float("inf"), True, 1j],
        "texts": ["", "ü", "\ud800", b"", b"\x00\xff"],
        "containers": [(), (1, (2,)), [], {}, {1, "a"}, Counter("abca"), OrderedDict(a=1), shared, shared],
        ("a", 1): {0: {None: 1}},
        "tensors": [dtrain.tensor(base), dtrain.tensor(base).t(), dtrain.tensor(base)[1:, ::2], dtrain.tensor(3.5)],
        "empty": [dtrain.zeros(0), dtrain.zeros(2, 0, 3)],
        "dtypes": [
            dtrain.tensor(np.array([0, 1], code))
            for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?", ">f4")
        ],
        "gradient": dtrain.ones(2, requires_grad=True),
        "parameters": [nn.Parameter(dtrain.ones(2, 2)), nn.Parameter(dtrain.ones(2), requires_grad=False)],
        "device": dtrain.device("cpu"),
        "dtype": dtrain.float32,
    }


def equal(ours: Any, written: Any) -> bool:
    """Whether both are the same: types, structure, bits."""
    if type(ours) is not type(written):
        return False
    if isinstance(ours, dict):
        keys = list(ours) == list(written)
        return keys and all(equal(ours[key], written[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(written) and all(map(equal, ours, written))
    if isinstance(ours, dtrain.Tensor):
        a, b = ours.array, written.array
        same = (
            a.dtype == b.dtype.newbyteorder("=") and a.shape == b.shape and a.tobytes() == b.astype(a.dtype).tobytes()
        )
        return same and ours.requires_grad == written.requires_grad
    return ours == written if isinstance(ours, set) else repr(ours) == repr(written)


@pytest.mark.parametrize("make", [trained, everything])
def test_what_was_written_is_read(tmp_path: Path, make: Any) -> None:
    value = make()
    dtrain.save(value, tmp_path / "x.pt")
    assert equal(dtrain.load(tmp_path / "x.pt"), value)
    file = io.BytesIO()
    dtrain.save(value, file)
    assert file.getvalue() == (tmp_path / "x.pt").read_bytes()
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize("how", [{"weights_only": True}, {"weights_only": False}, {"weights_only": True, "mmap": True}])
def test_pytorch_reads_it(torch: Any, tmp_path: Path, how: dict[str, bool]) -> None:
    value = {"trained": trained(), "everything": everything()}
    value["trained"]["history"] = [0.25]  # nan is not equal to itself
    dtrain.save(value, str(tmp_path / "x.pt"))
    same(dtrain.load(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", **how))


def test_pytorch_goes_on_from_it(torch: Any, tmp_path: Path) -> None:
    value = trained()
    dtrain.save(value, tmp_path / "x.pt")
    state = torch.load(tmp_path / "x.pt")
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    model.load_state_dict(state["model"])
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(state["optimizer"])
    assert optimizer.param_groups[0]["lr"] == value["optimizer"]["param_groups"][0]["lr"]


def test_pytorch_to_dtrain_and_back(torch: Any, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    torch.save(model.state_dict(), tmp_path / "there.pth")
    dtrain.save(dtrain.load(tmp_path / "there.pth"), tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())


def test_what_comes_twice_is_written_once(tmp_path: Path) -> None:
    big = dtrain.zeros(1000)
    dtrain.save({"a": big, "b": big, "c": big.detach(), "d": big.array}, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 6000
    loaded = dtrain.load(tmp_path / "x.pt")
    assert loaded["a"] is loaded["b"]
    loaded["a"].array[0] = 7
    assert loaded["c"].array[0] == loaded["d"].array[0] == 7
    model = nn.Linear(3, 3)
    optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # the parameters are now pieces of one array
    dtrain.save(model.state_dict(), tmp_path / "x.pt")
    assert equal(dtrain.load(tmp_path / "x.pt"), model.state_dict())


def test_a_list_that_holds_itself(torch: Any, tmp_path: Path) -> None:
    value: list[Any] = [1]
    value.append(value)
    dtrain.save(value, tmp_path / "x.pt")
    for loaded in (dtrain.load(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt")):
        assert loaded[1] is loaded


@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 100])  # bytes; more of them are written as files of > 2 GiB
def test_tensors_are_aligned_and_not_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    value = [dtrain.ones(n) for n in range(1, 40)]
    dtrain.save(value, tmp_path / "x.pt")
    assert equal(dtrain.load(tmp_path / "x.pt"), value)
    with zipfile.ZipFile(tmp_path / "x.pt") as archive, (tmp_path / "x.pt").open("rb") as file:
        assert archive.testzip() is None
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
            assert (info.header_offset + 30 + lengths) % 64 == 0
            assert info.compress_type == zipfile.ZIP_STORED
    if importlib.util.find_spec("torch"):
        import torch

        assert [len(x) for x in torch.load(tmp_path / "x.pt", mmap=True)] == list(range(1, 40))


def test_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    sums = set()
    for name in ("x", "y"):
        dtrain.save({"w": dtrain.ones(3), "names": {"a", "b", "c"}}, tmp_path / name)
        sums.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(sums) == 1


class Config:
    """What a file cannot hold."""


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (Config(), r"the object is a .*test_save\.Config, which dtrain.save does not do"),
        ({"a": [0, (1, Config())]}, r"\['a'\]\[1\]\[1\] is a .*Config"),
        ({Config: 1}, r"the key <class '.*Config'> is a builtins.type"),
        (nn.Linear(1, 1), r"is a dtrain\.nn\.\w+\.Linear.*state_dict\(\)"),
        (np.zeros(2, np.complex64), "dtype complex64, which PyTorch's files do not have"),
        (dtrain.tensor(np.zeros(2, np.uint16)), "dtype uint16"),
        (1 << 2100, "an int of 2101 bits"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, value: Any, error: str) -> None:
    (tmp_path / "x.pt").write_bytes(b"before")
    with pytest.raises(TypeError, match=error):
        dtrain.save(value, tmp_path / "x.pt")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("x.pt", b"before")]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dtrain.save([1], tmp_path / "x.pt")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        dtrain.save([2], tmp_path / "x.pt")
    assert os.listdir(tmp_path) == ["x.pt"] and dtrain.load(tmp_path / "x.pt") == [1]
    with pytest.raises(FileNotFoundError):
        dtrain.save([2], tmp_path / "no" / "x.pt")
