"""Downloads from a server that behaves badly, the cache, and what several ranks do."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import hub
from dtrain.comm import Communicator
from dtrain.comm.threads import run_ranks

from .conftest import Server


def weights(n: int = 50_000) -> bytes:
    file = io.BytesIO()
    dtrain.save({"w": np.random.default_rng(n).random(n)}, file)
    return file.getvalue()


DATA = weights()
SHA = hashlib.sha256(DATA).hexdigest()
NAME = f"model-{SHA[:8]}.pth"


@pytest.fixture
def online(server: Server) -> Server:
    server.files[f"/{NAME}"] = DATA
    return server


def files(folder: Path) -> list[str]:
    """What is in a folder, locks left out."""
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def test_a_file_is_downloaded_once(home: Path, online: Server, capfd: Any) -> None:
    for _ in range(2):
        state = hub.load_state_dict_from_url(f"{online.url}/{NAME}", check_hash=True)
        assert state["w"].shape == (50_000,)
    assert online.asked == [(f"/{NAME}", None)]
    assert files(home / "checkpoints") == [NAME]
    said = capfd.readouterr().err
    assert said.count("dtrain: downloading") == 1 and str(home / "checkpoints" / NAME) in said


def test_names_and_folders(home: Path, online: Server, tmp_path: Path) -> None:
    url = f"{online.url}/{NAME}"
    hub.load_state_dict_from_url(url, model_dir=tmp_path / "own", file_name="mine.pth", map_location="cpu")
    assert files(tmp_path / "own") == ["mine.pth"]
    with pytest.raises(ValueError, match=r"mine\.pth has no sha256 in its name"):
        hub.load_state_dict_from_url(url, file_name="mine.pth", check_hash=True)
    hub.load_state_dict_from_url(url, file_name="mine.pth", check_hash=SHA)
    hub.download_url_to_file(url, tmp_path / "own" / "x.pth", hash_prefix=SHA[:10], progress=False)
    assert files(tmp_path / "own") == ["mine.pth", "x.pth"]


def test_where_the_cache_is(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.get_dir() == str(home)
    monkeypatch.setenv("DTRAIN_HOME", str(tmp_path / "own"))
    assert hub.get_dir() == str(tmp_path / "own" / "hub")
    hub.set_dir(tmp_path / "chosen")
    assert hub.get_dir() == str(tmp_path / "chosen")


def test_pytorchs_cache_is_read_and_left_alone(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home.parents[1] / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(DATA)
    state = hub.load_state_dict_from_url(f"{server.url}/{NAME}", check_hash=True)
    assert len(state["w"]) == 50_000 and server.asked == [] and not home.exists()
    (folder / NAME).write_bytes(DATA[:-1] + b"?")  # damaged there: it is downloaded, into dtrain's
    server.files[f"/{NAME}"] = DATA
    hub.load_state_dict_from_url(f"{server.url}/{NAME}", check_hash=True)
    assert files(home / "checkpoints") == [NAME] and (folder / NAME).read_bytes()[-1:] == b"?"


def test_a_damaged_file_in_the_cache_is_replaced(home: Path, online: Server) -> None:
    (home / "checkpoints").mkdir(parents=True)
    (home / "checkpoints" / NAME).write_bytes(DATA[:1000])
    hub.load_state_dict_from_url(f"{online.url}/{NAME}", check_hash=True)
    assert (home / "checkpoints" / NAME).read_bytes() == DATA


def test_a_torn_connection_is_taken_up(home: Path, online: Server) -> None:
    online.torn = [100_000, 100_000, 0, 0]
    hub.load_state_dict_from_url(f"{online.url}/{NAME}", check_hash=True)
    ranges = [wanted for _, wanted in online.asked]
    assert ranges == [None, "bytes=100000-", "bytes=200000-", "bytes=200000-", "bytes=200000-"]
    assert (home / "checkpoints" / NAME).read_bytes() == DATA


def test_a_server_without_ranges_begins_again(home: Path, online: Server) -> None:
    online.torn, online.ranges = [100_000], False
    hub.load_state_dict_from_url(f"{online.url}/{NAME}", check_hash=True)
    assert (home / "checkpoints" / NAME).read_bytes() == DATA


def test_a_server_that_always_tears(home: Path, online: Server) -> None:
    online.torn = [1000] + [0] * 9
    with pytest.raises(OSError, match=r"could not download .*: the connection ended after 1,000 of [\d,]+ bytes"):
        hub.load_state_dict_from_url(f"{online.url}/{NAME}", check_hash=True)
    part = f".{NAME}.{socket.gethostname()}.part"
    assert files(home / "checkpoints") == [part] and len(online.asked) == 6
    online.torn.clear()
    hub.load_state_dict_from_url(f"{online.url}/{NAME}", check_hash=True)  # goes on from there
    assert online.asked[-1] == (f"/{NAME}", "bytes=1000-") and files(home / "checkpoints") == [NAME]


def test_without_a_hash_nothing_is_taken_up_later(home: Path, online: Server) -> None:
    online.torn = [1000] + [0] * 9
    with pytest.raises(OSError, match="whose sha256 is not known"):
        hub.load_state_dict_from_url(f"{online.url}/{NAME}")
    assert files(home / "checkpoints") == []


@pytest.mark.parametrize("left", [b"something else" * 1000, DATA + b"and more", DATA])
def test_what_an_earlier_process_has_left(home: Path, online: Server, left: bytes) -> None:
    (home / "checkpoints").mkdir(parents=True)
    (home / "checkpoints" / f".{NAME}.{socket.gethostname()}.part").write_bytes(left)
    hub.load_state_dict_from_url(f"{online.url}/{NAME}", check_hash=True)
    assert files(home / "checkpoints") == [NAME] and (home / "checkpoints" / NAME).read_bytes() == DATA


def test_another_file_is_not_kept(home: Path, online: Server) -> None:
    online.files[f"/{NAME}"] = DATA[:-1] + b"?"
    with pytest.raises(
        ValueError, match=rf"sent {len(DATA):,} bytes with sha256 [0-9a-f]{{64}}; expected {SHA[:8]}: an"
    ):
        hub.load_state_dict_from_url(f"{online.url}/{NAME}", check_hash=True)
    assert files(home / "checkpoints") == []


def test_errors_of_the_server(home: Path, online: Server) -> None:
    url = f"{online.url}/no-{SHA[:8]}.pth"
    with pytest.raises(OSError) as caught:
        hub.load_state_dict_from_url(url, check_hash=True)
    assert str(caught.value) == (
        f"could not download {url}: the server answers 404 Not Found. Where there is no network, get the file "
        f"elsewhere, and put it into {home / 'checkpoints'} as no-{SHA[:8]}.pth, sha256 {SHA[:8]}..."
    )
    assert len(online.asked) == 1
    online.codes = [503, 429]
    hub.load_state_dict_from_url(f"{online.url}/{NAME}", check_hash=True)
    assert len(online.asked) == 4


def test_offline(home: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/{NAME}"
        (home / "checkpoints").mkdir(parents=True)
        (home / "checkpoints" / NAME).write_bytes(b"damaged")
        with pytest.raises(OSError) as caught:
            hub.load_state_dict_from_url(url, check_hash=SHA)
    said = str(caught.value)
    assert said.startswith(f"could not download {url}: ") and f"put it into {home / 'checkpoints'} as {NAME}" in said
    assert f"sha256 {SHA} (the file that is there has sha256 " in said


def test_processes_of_a_host_take_turns(home: Path, online: Server) -> None:
    threads = [
        threading.Thread(
            target=hub.load_state_dict_from_url, args=(f"{online.url}/{NAME}",), kwargs={"check_hash": True}
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(online.asked) == 1


# -- ranks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [["a"] * 4, ["a", "a", "b", "b"]])
def test_one_rank_per_host_downloads(home: Path, online: Server, tmp_path: Path, hosts: list[str]) -> None:
    def work(comm: Communicator) -> float:
        own = tmp_path / comm.host  # hosts do not share a disk
        state = hub.load_state_dict_from_url(f"{online.url}/{NAME}", model_dir=own, check_hash=True, comm=comm)
        return float(state["w"].array.sum())

    sums = run_ranks(4, work, hosts=hosts)
    assert len(set(sums)) == 1
    assert len(online.asked) == len(set(hosts))


def test_an_error_reaches_all_ranks(home: Path, online: Server) -> None:
    errors: dict[int, str] = {}

    def work(comm: Communicator) -> None:
        with pytest.raises((OSError, RuntimeError), match="the server answers 404") as caught:
            hub.load_state_dict_from_url(f"{online.url}/no.pth", comm=comm)
        errors[comm.rank] = f"{type(caught.value).__name__}: {caught.value}"
        comm.barrier()  # the ranks are still in step

    run_ranks(3, work, hosts=["a", "b", "a"])
    assert errors[0].startswith("OSError: could not") and errors[1].startswith("OSError: could not")
    assert errors[2].startswith("RuntimeError: rank 0 failed. OSError: could not download")
