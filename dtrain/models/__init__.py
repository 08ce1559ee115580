"""Models that others have published weights of, under their names and with their keys; and small ones of the examples.

May import everything below, `dtrain.hub` with it. Read `resnet.py` first, then `published.py`: what a function does
with `weights` or `pretrained`. `hub.load('pytorch/vision', name)` finds the functions here by name.
"""

from dtrain.models.bert import BertModel, all_minilm_l6_v2, bert_base_uncased, sentence_embedding
from dtrain.models.densenet import DenseNet, densenet121
from dtrain.models.efficientnet import EfficientNet, efficientnet_b0
from dtrain.models.gpt2 import GPT2LMHeadModel, GPT2Model, char_gpt, gpt2
from dtrain.models.mobilenet import MobileNetV2, mobilenet_v2
from dtrain.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
from dtrain.models.squeezenet import SqueezeNet, squeezenet1_0, squeezenet1_1
from dtrain.models.vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from dtrain.models.vision_transformer import VisionTransformer, vit_b_16
from dtrain.models.wordpiece import WordPiece

__all__ = [
    "VGG",
    "BertModel",
    "DenseNet",
    "EfficientNet",
    "GPT2LMHeadModel",
    "GPT2Model",
    "MobileNetV2",
    "ResNet",
    "SqueezeNet",
    "VisionTransformer",
    "WordPiece",
    "all_minilm_l6_v2",
    "bert_base_uncased",
    "char_gpt",
    "densenet121",
    "efficientnet_b0",
    "gpt2",
    "mobilenet_v2",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "sentence_embedding",
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
]
