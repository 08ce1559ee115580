"""Published weights, on photographs and sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dtrain
from dtrain import hub, models
from dtrain.hub.weights import HUGGING_FACE, TORCHVISION
from tests.hub.packages import MOBILENET_V2, package_file

from .reference import torchvision_models

#: A photograph, out of which package, and what is on it: ImageNet's number and name of the class.
PHOTOGRAPHS = {
    "china.jpg": ("scikit-learn", "1.7.2", 698, "palace"),
    "chelsea.png": ("scikit-image", "0.25.2", 285, "Egyptian cat"),
    "coffee.png": ("scikit-image", "0.25.2", 967, "espresso"),
}


def pixels(file: Path) -> np.ndarray:
    """The middle of a photograph, as ImageNet's models want it: (1, 3, 224, 224) float32."""
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed (extra: torch)")
    with image.open(file) as opened:
        rgb = opened.convert("RGB")
    scale = 256 / min(rgb.size)
    rgb = rgb.resize([round(n * scale) for n in rgb.size], image.Resampling.BILINEAR)
    left, top = ((n - 224) // 2 for n in rgb.size)
    x = np.asarray(rgb.crop((left, top, left + 224, top + 224))) / 255
    x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return x.transpose(2, 0, 1)[None].astype(np.float32)


def test_mobilenet_knows_what_is_on_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = package_file(*MOBILENET_V2)
    photographs = {name: package_file(*of[:2], name) for name, of in PHOTOGRAPHS.items()}
    monkeypatch.setenv("DTRAIN_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / weights.name).symlink_to(weights)
    ours = hub.load("pytorch/vision:v0.9.0", "mobilenet_v2", pretrained=True).eval()
    theirs = torchvision_models().mobilenet_v2()
    import torch

    theirs.load_state_dict(torch.load(weights, weights_only=True))
    theirs.eval()
    for name, (*_, number, label) in PHOTOGRAPHS.items():
        x = pixels(photographs[name])
        with dtrain.no_grad(), torch.no_grad():
            logits, want = ours(dtrain.tensor(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
        assert np.abs(logits - want).max() <= 1e-4
        assert logits.argmax() == number, f"{name} should be {label}"


def test_other_numbers_of_classes_than_the_weights_have() -> None:
    with pytest.raises(ValueError, match="mobilenet_v2: the published weights have 1000 classes, num_classes is 10"):
        models.mobilenet_v2(weights="DEFAULT", num_classes=10)
    with pytest.raises(ValueError, match="resnet18: weights='DEFAULT' or pretrained=True, not both"):
        models.resnet18(weights="DEFAULT", pretrained=True)
    assert models.mobilenet_v2(weights=None, num_classes=10).classifier[1].weight.shape == (10, 1280)


def test_the_hub_has_all_models_whose_weights_are_published() -> None:
    assert hub.list("pytorch/vision:main") == sorted(TORCHVISION)
    names = {name.replace("-", "_").lower() for name in HUGGING_FACE}
    assert set(hub.list("huggingface/transformers")) == {"model", *names}
