"""dtrain.load: both formats of PyTorch, as PyTorch writes them and as only others do; damaged files."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn

from .files import legacy, number, numbers, storage, tensor, text, zipped
from .packages import G2P, MINILM, MOBILENET_V2, RESEMBLYZER, package_file

FORMATS = pytest.mark.parametrize("make", [zipped, legacy])
FLOATS = np.arange(6, dtype="<f4").tobytes()


def load(data: bytes) -> Any:
    return dtrain.load(io.BytesIO(data))


def same(ours: Any, theirs: Any) -> None:
    """That dtrain's object is PyTorch's: structure, types, dtypes, values."""
    import torch

    if isinstance(theirs, dict):
        assert type(ours) is type(theirs) and list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            same(our, their)
    elif isinstance(theirs, torch.Tensor):
        assert isinstance(ours, nn.Parameter) == isinstance(theirs, torch.nn.Parameter)
        assert ours.requires_grad == theirs.requires_grad
        assert str(theirs.dtype) == f"torch.{ours.dtype}"
        wide = ours.float().array if theirs.dtype == torch.bfloat16 else ours.array
        expected = theirs.detach().float() if theirs.dtype == torch.bfloat16 else theirs.detach()
        np.testing.assert_array_equal(wide, expected.numpy(), strict=True)
    elif isinstance(theirs, torch.device):
        assert ours == str(theirs) and ours.type == theirs.type and ours.index == theirs.index
    elif isinstance(theirs, torch.dtype):
        assert ours == torch.zeros((), dtype=theirs).numpy().dtype
    else:
        assert type(ours) is type(theirs) and ours == theirs


def everything(torch: Any) -> dict[Any, Any]:
    """One of each that a file of torch.save may hold."""
    base = torch.arange(24.0).reshape(4, 6)
    layer = torch.nn.BatchNorm1d(3)
    return {
        "numbers": [1, -1, 255, 65536, 2**40, -(2**70), 0.5, float("inf"), True, False, None, 1 + 2j],
        "texts": ["", "Größe", "x" * 300, b"", b"\x00\xff"],
        "containers": (
            (),
            (1,),
            (1, 2),
            (1, 2, 3),
            (1, 2, 3, 4),
            [],
            {},
            {1, "two"},
            Counter("abca"),
            OrderedDict(a=1),
        ),
        3: torch.Size([2, 3]),
        ("a", 1): torch.device("cpu"),
        "device": torch.device("cuda", 1),
        "dtypes": [torch.float32, torch.int64, torch.bool, torch.float16],
        "views": [base, base[1:, ::2], base.t(), base[0], base[2, 3], base[:0], base.expand(2, 4, 6)],
        "of each dtype": [
            torch.tensor([0, 1, 1]).to(getattr(torch, name))
            for name in [
                "float64",
                "float32",
                "float16",
                "bfloat16",
                "int64",
                "int32",
                "int16",
                "int8",
                "uint8",
                "bool",
            ]
        ],
        "bfloat16": torch.tensor([1.0, -2.5, 3.1e38, 1e-40, float("inf")]).bfloat16(),
        "no dimensions": torch.tensor(3.5),
        "empty": [torch.zeros(0), torch.zeros(2, 0, 3), torch.zeros(0, dtype=torch.int64)],
        "gradient": torch.ones(2, requires_grad=True),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "state dict": layer.state_dict(),
        "optimizer": torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9).state_dict(),
    }


@pytest.mark.parametrize("zipfile", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_that_pytorch_writes(torch: Any, tmp_path: Path, zipfile: bool, protocol: int) -> None:
    value = everything(torch)
    path = tmp_path / "everything.pt"
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipfile)
    theirs = torch.load(path, weights_only=False)
    same(dtrain.load(path), theirs)
    same(dtrain.load(str(path), map_location="cpu", weights_only=False), theirs)
    same(load(path.read_bytes()), theirs)


@pytest.mark.parametrize("zipfile", [True, False])
def test_memory_is_shared_as_it_was(torch: Any, zipfile: bool) -> None:
    base = torch.arange(10.0)
    file = io.BytesIO()
    torch.save([base, base[2:5], base.view(2, 5).t()], file, _use_new_zipfile_serialization=zipfile)
    file.seek(0)
    whole, part, turned = dtrain.load(file)
    part.array[0] = 100
    assert whole.array[2] == 100 and turned.array[2, 0] == 100
    assert whole.array.flags.writeable


@pytest.mark.parametrize("zipfile", [True, False])
def test_dtypes_without_a_storage_class(torch: Any, zipfile: bool) -> None:
    file = io.BytesIO()
    value = [torch.tensor([1, 2, 3]).to(dtype) for dtype in (torch.uint16, torch.uint32, torch.uint64)]
    torch.save([*value, value[0][1:]], file, _use_new_zipfile_serialization=zipfile)
    ours = load(file.getvalue())
    assert [str(x.dtype) for x in ours] == ["uint16", "uint32", "uint64", "uint16"]
    assert [x.tolist() for x in ours] == [[1, 2, 3]] * 3 + [[2, 3]]


@pytest.mark.parametrize("zipfile", [True, False])
@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda torch: torch.ones(2, dtype=torch.complex64), "no complex tensors.*view_as_real"),
        (lambda torch: torch.ones(2).to(torch.float8_e4m3fn), "no 8-bit floating-point tensors.*float()"),
        (lambda torch: torch.eye(2).to_sparse(), "no sparse tensors.*to_dense|_get_layout"),
        (
            lambda torch: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "no quantised tensors.*dequantize",
        ),
        (lambda torch: torch.empty(2, device="meta"), "meta"),
        (lambda torch: torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear.*model\.state_dict\(\)"),
        (lambda torch: {"n": np.float64(2)}, r"numpy.*scalar"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_dtrain_does_not_have(torch: Any, make: Any, error: str, zipfile: bool) -> None:
    file = io.BytesIO()
    torch.save({"x": make(torch)}, file, _use_new_zipfile_serialization=zipfile)
    with pytest.raises(pickle.UnpicklingError, match=error):
        load(file.getvalue())


def test_a_negated_view(torch: Any) -> None:
    file = io.BytesIO()
    torch.save(torch.ones(2, dtype=torch.complex64).conj().imag, file)
    with pytest.raises(pickle.UnpicklingError, match="resolve_neg|complex"):
        load(file.getvalue())


def test_torchscript(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with pytest.warns(DeprecationWarning):
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(ValueError, match="script.pt: this is a TorchScript program"):
        dtrain.load(path)


def test_the_version_of_layers_is_kept(torch: Any) -> None:
    file = io.BytesIO()
    torch.save(torch.nn.BatchNorm1d(3).state_dict(), file)
    state = load(file.getvalue())
    assert state._metadata == {"": {"version": 2}}
    nn.BatchNorm1d(3).load_state_dict(state)


# -- without PyTorch -----------------------------------------------------------------------------


@FORMATS
def test_a_tensor(make: Any) -> None:
    x = load(make(tensor(storage(6), 1, (2, 2), (2, 1)), {"0": FLOATS}))
    np.testing.assert_array_equal(x.array, np.float32([[1, 2], [3, 4]]), strict=True)


@FORMATS
def test_protocol_0(make: Any) -> None:
    opcodes = b"(dp0\nVa\nI1\nsVb\n(lp1\nF0.5\naL12345678901L\naI01\nasg0\n0Vc\nS'text'\ns"
    assert load(make(opcodes)) == {"a": 1, "b": [0.5, 12345678901, True], "c": "text"}


@FORMATS
def test_a_list_that_holds_itself(make: Any) -> None:
    value = load(make(pickle.dumps(_cycle(), 2)[2:-1]))
    assert value[0] is value


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def test_big_endian_files() -> None:
    opcodes = (
        b"(" + tensor(storage(6), 0, (6,), (1,)) + tensor(storage(2, "BFloat16Storage", "1"), 0, (2,), (1,)) + b"t"
    )
    floats = np.arange(6, dtype=">f4").tobytes()
    for data in (
        zipped(opcodes, {"0": floats, "1": b"\x3f\x80\x40\x00"}, byteorder=b"big"),
        legacy(tensor(storage(6), 0, (6,), (1,)), {"0": floats}, little=False),
    ):
        value = load(data)
        first = value[0] if isinstance(value, tuple) else value
        np.testing.assert_array_equal(first.array, np.arange(6, dtype=np.float32), strict=True)
        if isinstance(value, tuple):
            assert value[1].dtype == dtrain.bfloat16 and value[1].tolist() == [1, 2]


def test_views_of_storages_in_old_files() -> None:
    view = b"(" + text("1") + number(2) + number(3) + b"t"
    opcodes = b"(" + tensor(storage(6, rest=b"N"), 0, (6,), (1,)) + tensor(storage(6, rest=view), 1, (2,), (1,)) + b"t"
    whole, part = load(legacy(opcodes, {"0": FLOATS}))
    assert part.tolist() == [3, 4] and np.shares_memory(whole.array, part.array)
    outside = b"(" + text("1") + number(4) + number(3) + b"t"
    with pytest.raises(pickle.UnpicklingError, match="a view from 4 of 3 elements, of a storage of 6"):
        load(legacy(tensor(storage(6, rest=outside), 0, (2,), (1,)), {"0": FLOATS}))


def test_a_bool_is_0_or_1() -> None:
    x = load(zipped(tensor(storage(3, "BoolStorage"), 0, (3,), (1,)), {"0": b"\x00\x01\xfe"}))
    assert x.array.view(np.uint8).tolist() == [0, 1, 1]


def test_an_old_parameter_and_tensor() -> None:
    old = b"ctorch._utils\n_rebuild_tensor\n(" + storage(6) + number(0) + numbers(2) + numbers(1) + b"tR"
    new = b"ctorch._utils\n_rebuild_parameter\n(" + old + b"\x88ccollections\nOrderedDict\n)RtR"
    x = load(legacy(new, {"0": FLOATS}))
    assert isinstance(x, nn.Parameter) and x.requires_grad and x.tolist() == [0, 1]


@FORMATS
@pytest.mark.parametrize(
    ("start", "size", "strides"),
    [
        (0, (7,), (1,)),
        (6, (), ()),
        (5, (2,), (1,)),
        (0, (2, 2), (5, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), ()),
    ]
    + [(0, (2**62, 2**62), (0, 0)), (0, (1,) * 100, (1,) * 100), (2**70, (1,), (1,)), (0, (2,), (2**62,))],
)
def test_a_tensor_outside_of_its_storage(make: Any, start: int, size: Any, strides: Any) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"a BytesIO.* damaged or cut off"):
        load(make(tensor(storage(6), start, size, strides), {"0": FLOATS}))


@FORMATS
def test_declared_sizes_are_not_believed(make: Any) -> None:
    for n in (10**6, 2**40, 2**62):
        with pytest.raises(pickle.UnpicklingError, match=rf"storages of {4 * n:,} bytes, in a file of [\d,]+"):
            load(make(tensor(storage(n), 0, (1,), (1,)), {"0": FLOATS}))
    for huge in (b"T\xff\xff\xff\x7f", b"B\xff\xff\xff\xff", b"\x8d" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f"):
        with pytest.raises(pickle.UnpicklingError, match="damaged or cut off"):
            load(make(huge + b"text"))
    assert load(make(b"]r\xff\xff\xff\xff")) == []  # a memo of 2**32 places


@FORMATS
def test_storages_that_do_not_fit(make: Any) -> None:
    twice = b"(" + tensor(storage(6), 0, (1,), (1,)) + tensor(storage(3, "DoubleStorage"), 0, (1,), (1,)) + b"t"
    with pytest.raises(pickle.UnpicklingError, match="storage 0 is of 6 float32, and of 3 float64"):
        load(make(twice, {"0": FLOATS}))
    with pytest.raises(ValueError, match=r"a BytesIO.*20 bytes, of 24|5 elements, of 6|cut off"):
        load(make(tensor(storage(6), 0, (6,), (1,)), {"0": FLOATS[:-4]}))
    with pytest.raises(ValueError, match=r"a BytesIO.*(data/0 is missing|list of storages does not fit)"):
        load(make(tensor(storage(6), 0, (6,), (1,)), {"1": FLOATS}))
    with pytest.raises(pickle.UnpicklingError, match="'module'.*whole model"):
        load(make(b"(" + text("module") + text("Net") + text("net.py") + text("class Net") + b"tQ"))


def small(tmp_path: Path) -> bytes:
    dtrain.save({"w": dtrain.ones(3), "b": [1, 2.5, "text", (None, True)]}, tmp_path / "small.pt")
    return (tmp_path / "small.pt").read_bytes()


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    old = legacy(
        b"}(" + text("w") + tensor(storage(6), 0, (2, 3), (3, 1)) + text("n") + number(7) + b"u", {"0": FLOATS}
    )
    for data in (small(tmp_path), old):
        load(data)
        for n in range(len(data)):
            with pytest.raises((ValueError, pickle.UnpicklingError), match="a BytesIO"):
                load(data[:n])


def test_a_changed_byte_ends_in_a_clear_error_or_in_data(tmp_path: Path) -> None:
    old = legacy(
        b"}(" + text("w") + tensor(storage(6), 0, (2, 3), (3, 1)) + text("n") + number(7) + b"u", {"0": FLOATS}
    )
    for data in (small(tmp_path), old):
        for at in range(len(data)):
            for value in (0, 255, data[at] ^ 1, data[at] ^ 0x80, *b".(RQt"):
                try:
                    load(data[:at] + bytes([value]) + data[at + 1 :])
                except (ValueError, pickle.UnpicklingError) as error:
                    assert "a BytesIO" in str(error)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "x.pth: the file is empty"),
        (b"<!DOCTYPE html>", "a page of the web"),
        (b"version https://git-lfs", "Git LFS"),
        (b"\x93NUMPY", "numpy.load"),
        (pickle.dumps({}), "a pickle, but not one of torch.save"),
        (b"hello, world", "it begins with b'hello, world'; dtrain.load reads"),
        (b"PK\x03\x04 and no more", "damaged or cut off"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, error: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=error):
        dtrain.load(tmp_path / "x.pth")
    with pytest.raises(FileNotFoundError):
        dtrain.load(tmp_path / "no.pth")


def test_devices() -> None:
    data = zipped(tensor(storage(6), 0, (6,), (1,)), {"0": FLOATS})
    for place in (None, "cpu", dtrain.device("cpu"), {"cuda:0": "cpu"}, lambda storage, place: storage):
        assert dtrain.load(io.BytesIO(data), map_location=place).device == "cpu"
    with pytest.raises(ValueError, match="'cuda:0' is not available"):
        dtrain.load(io.BytesIO(data), map_location="cuda:0")


# -- real weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("package", [MOBILENET_V2, RESEMBLYZER], ids=lambda package: package[0])
def test_real_weights_are_what_pytorch_reads(torch: Any, package: tuple[str, str, str]) -> None:
    file = package_file(*package)
    same(dtrain.load(file), torch.load(file, weights_only=True, map_location="cpu"))


def test_real_weights_by_name() -> None:
    mobilenet, voices = (dtrain.load(package_file(*package)) for package in (MOBILENET_V2, RESEMBLYZER))
    assert len(mobilenet) == 314 and mobilenet["classifier.1.weight"].shape == (1000, 1280)
    assert voices["model_state"]["lstm.weight_ih_l2"].shape == (1024, 256)
    minilm, g2p = (dtrain.load(package_file(*package)) for package in (MINILM, G2P))
    assert minilm["embeddings.word_embeddings.weight"].shape == (30522, 384)
    assert g2p["enc_w_ih"].shape == (768, 256) and g2p["enc_w_ih"].dtype == np.float32
