"""Models that others have published weights of, under their names and with their keys; and small ones of the examples.

May import everything below, `dtrain.hub` with it. Read `resnet.py` first, then `published.py`: what a function does
with `weights` or `pretrained`. `hub.load('pytorch/vision', name)` finds the functions here by name.
"""

from dtrain.models.gpt2 import GPT2LMHeadModel, GPT2Model, char_gpt, gpt2
from dtrain.models.mobilenet import MobileNetV2, mobilenet_v2
from dtrain.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
from dtrain.models.vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = [
    "VGG",
    "GPT2LMHeadModel",
    "GPT2Model",
    "MobileNetV2",
    "ResNet",
    "char_gpt",
    "gpt2",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
