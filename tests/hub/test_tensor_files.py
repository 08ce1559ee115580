"""Safetensors and .npz: read, written, damaged."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import dtrain
from dtrain import hub, nn

from .packages import MINILM, package_file

CODES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


def arrays() -> dict[str, np.ndarray]:
    made = {code: np.array([[0, 1], [1, 0]], code) for code in CODES}
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    return {
        **made,
        "empty": np.zeros((2, 0), np.float32),
        "one": np.array(3, np.float32),
        "t": base.T,
        "part": base[:, 1:3],
    }


def test_safetensors_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    hub.save_file({name: dtrain.Tensor(array) for name, array in arrays().items()}, path)
    for loaded in (hub.load_file(path), dtrain.load(path), dtrain.load(str(path))):
        assert sorted(loaded) == sorted(arrays())
        for name, array in arrays().items():
            np.testing.assert_array_equal(loaded[name].array, array, strict=True)
            assert loaded[name].array.flags.writeable
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
    hub.save_file({"x": np.ones(2)}, path, metadata={"epoch": "3"})
    with safe_open(path, "np") as file:
        assert file.metadata() == {"epoch": "3"}
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_pytorch_reads_our_safetensors(torch: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "x.safetensors"
    hub.save_file(arrays(), path)
    for name, value in load_file(path).items():
        np.testing.assert_array_equal(value.numpy(), arrays()[name], strict=True)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    hub.save_file(model.state_dict(), path)
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    theirs.load_state_dict(load_file(path))
    save_file(theirs.state_dict(), path)
    again = hub.load_file(path)
    assert all((again[name].array == value.array).all() for name, value in model.state_dict().items())


def test_bfloat16(torch: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def same_bits(a: Any, b: Any) -> bool:
        return a.dtype == b.dtype and torch.equal(a.view(torch.int16), b.view(torch.int16))

    values = torch.tensor([[1.0, -2.5, 3.1e38], [1e-40, float("inf"), float("nan")]]).bfloat16()
    save_file({"x": values, "y": torch.ones(3)}, tmp_path / "x.safetensors")
    loaded = hub.load_file(tmp_path / "x.safetensors")
    assert loaded["x"].dtype == dtrain.bfloat16
    np.testing.assert_array_equal(loaded["x"].float().array, values.float().numpy(), strict=True)
    hub.save_file(loaded, tmp_path / "again.safetensors")
    assert same_bits(load_file(tmp_path / "again.safetensors")["x"], values)
    dtrain.save(loaded, tmp_path / "x.pt")
    assert same_bits(torch.load(tmp_path / "x.pt")["x"], values)
    assert dtrain.load(tmp_path / "x.pt")["x"].array.tobytes() == loaded["x"].array.tobytes()
    save_file({"x": values.to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x.safetensors: x has dtype F8_E4M3, which dtrain does not have"):
        hub.load_file(tmp_path / "x.safetensors")


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    hub.save_file({"w": np.ones((2, 3), np.float32)}, path)
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"x\.safetensors"):
            dtrain.load(path)
        with pytest.raises(ValueError, match=r"x\.safetensors: this is no whole safetensors file"):
            hub.load_file(path)
    for entry in (
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 2**50]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]},
    ):
        header = json.dumps({"w": entry}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
        with pytest.raises(ValueError, match=r"x\.safetensors: this is no whole safetensors file"):
            hub.load_file(path)
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        dtrain.load(path)
    with pytest.raises(FileNotFoundError):
        hub.load_file(tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match="'cuda' is not available"):
        hub.load_file(path, device="cuda")


def test_safetensors_hold_tensors_only(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="epoch is a int; a safetensors file holds tensors, dtrain.save others too"):
        hub.save_file({"epoch": 3}, tmp_path / "x.safetensors")  # type: ignore[dict-item]
    assert os.listdir(tmp_path) == []


def test_minilm_is_what_safetensors_reads() -> None:
    path = package_file(*MINILM)
    loaded = dtrain.load(path)
    with safe_open(path, "np") as file:
        assert sorted(file.keys()) == sorted(loaded)
        for name in file.keys():  # noqa: SIM118  (a file, not a dict)
            np.testing.assert_array_equal(loaded[name].array, file.get_tensor(name), strict=True)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "x.npz", **arrays(), big=np.arange(3, dtype=">f4"), columns=np.asfortranarray(np.eye(3)))
    loaded = dtrain.load(tmp_path / "x.npz")
    for name, array in arrays().items():
        np.testing.assert_array_equal(loaded[name].array, array, strict=True)
    np.testing.assert_array_equal(loaded["big"].array, np.arange(3, dtype=np.float32), strict=True)
    np.testing.assert_array_equal(loaded["columns"].array, np.eye(3), strict=True)
    file = io.BytesIO((tmp_path / "x.npz").read_bytes())
    assert sorted(dtrain.load(file)) == sorted(loaded)


class Hostile:
    def __reduce__(self) -> Any:
        return os.getcwd, ()


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.array([Hostile()], object), r"x\.npz: x\.npy is an array of dtype object; tensors hold numbers"),
        (np.array(["text"]), r"x\.npz: x\.npy is an array of dtype <U4"),
        (np.ones(2, np.complex64), r"dtype complex64"),
    ],
)
def test_npz_of_other_than_numbers(tmp_path: Path, array: np.ndarray, error: str) -> None:
    np.savez(tmp_path / "x.npz", x=array)
    with pytest.raises(ValueError, match=error):
        dtrain.load(tmp_path / "x.npz")


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, w=np.ones((2, 3), np.float32))
    whole = path.read_bytes()
    for n in range(0, len(whole), 3):
        with pytest.raises(ValueError, match="a BytesIO"):
            dtrain.load(io.BytesIO(whole[:n]))
    for at in range(0, len(whole)):
        try:
            dtrain.load(io.BytesIO(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]))
        except ValueError as error:
            assert "a BytesIO" in str(error)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24))
    with pytest.raises(
        ValueError, match=r"x\.npz: w\.npy is damaged: shape \(1099511627776,\) of float32 in 104 bytes"
    ):
        dtrain.load(path)
