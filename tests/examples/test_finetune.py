"""examples/finetune.py with ImageNet's weights: the same bits at any number of ranks, and better than without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.programs import EXAMPLES, result_of, run_example
from tests.hub.packages import MOBILENET_V2, package_file
from tests.launch.jobs import needs_mpi


@pytest.fixture
def home(tmp_path: Path) -> str:
    """A cache that has the weights."""
    weights = package_file(*MOBILENET_V2)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / weights.name).symlink_to(weights)
    return str(tmp_path)


@needs_mpi
def test_the_same_bits_at_any_number_of_ranks(home: str) -> None:
    """40 images in steps of 38: the last step has 2, fewer than there are microbatches."""
    options = ("--images", "40", "--test-images", "40", "--batch-size", "38", "--epochs", "1", "--threads", "1")
    want = result_of(run_example("finetune.py", *options, DTRAIN_HOME=home))
    for ranks in (1, 2, 4):
        got = result_of(run_example("finetune.py", *options, ranks=ranks, DTRAIN_HOME=home))
        assert got.pop("ranks") == ranks
        for name in ("sha256", "loss", "accuracy"):
            assert got[name] == want[name], f"{name} on {ranks} ranks"


def test_the_weights_help(home: str) -> None:
    options = ("--images", "400", "--test-images", "200", "--batch-size", "32", "--epochs", "1")
    tuned = result_of(run_example("finetune.py", *options, DTRAIN_HOME=home))
    scratch = result_of(run_example("finetune.py", *options, "--from-scratch"))
    assert float(str(tuned["accuracy"])) > float(str(scratch["accuracy"])) + 0.2


def test_it_is_short() -> None:
    assert len((EXAMPLES / "finetune.py").read_text().splitlines()) <= 120
