"""Environments in which no real data set is found, and in which a made-up one is online."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from dtrain.data import mnist
from dtrain.data.sources import FILES

from .idx_files import write_idx_set


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data set on this machine; the folder in which the cache would be."""
    monkeypatch.delenv("DTRAIN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    source = dataclasses.replace(mnist.FashionMNIST.source, installed=())
    monkeypatch.setattr(mnist.FashionMNIST, "source", source)
    mnist._say_once.cache_clear()
    return tmp_path / "xdg" / "dtrain"


@pytest.fixture
def server(nowhere, tmp_path, monkeypatch):
    """A made-up Fashion-MNIST "online": the folder from which downloads come."""
    online = tmp_path / "online"
    write_idx_set(online)
    sums = tuple(hashlib.sha256((online / f).read_bytes()).hexdigest() for f in FILES)
    source = dataclasses.replace(mnist.FashionMNIST.source, url=online.as_uri() + "/", sha256=sums)
    monkeypatch.setattr(mnist.FashionMNIST, "source", source)
    return online
