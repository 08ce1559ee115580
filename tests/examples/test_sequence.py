"""examples/sequence.py: the same bits in one process and under mpirun, and a model that hears who speaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtrain.data import JapaneseVowels
from tests.examples.programs import EXAMPLES, result_of, run_example
from tests.hub.packages import package_file
from tests.launch.jobs import needs_mpi


@pytest.fixture(scope="module")
def folder() -> Path:
    return package_file(*JapaneseVowels.package, "JapaneseVowels_TRAIN.ts").parent


@needs_mpi
def test_the_same_bits_at_any_number_of_ranks(folder: Path) -> None:
    """270 sequences in steps of 67: the last step of an epoch has 2, fewer than there are microbatches."""
    options = ("--epochs", "1", "--microbatches", "4", "--batch-size", "67", "--data", str(folder))
    want = result_of(run_example("sequence.py", *options))
    assert want["data"] == "270 sequences" and want["ranks"] == 1
    for ranks in (2, 4):
        got = result_of(run_example("sequence.py", *options, ranks=ranks))
        assert got.pop("ranks") == ranks
        for name in ("sha256", "loss", "accuracy"):
            assert got[name] == want[name], f"{name} on {ranks} ranks"


def test_it_learns(folder: Path) -> None:
    result = result_of(run_example("sequence.py", "--epochs", "12", "--data", str(folder)))
    assert float(str(result["accuracy"])) > 0.88


def test_it_is_short() -> None:
    assert len((EXAMPLES / "sequence.py").read_text().splitlines()) <= 120
