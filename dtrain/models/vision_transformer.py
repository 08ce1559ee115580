"""Vision Transformer. Dosovitskiy et al., "An image is worth 16x16 words", arXiv:2010.11929."""

from __future__ import annotations

import math
from typing import Any

from dtrain import nn
from dtrain.autograd import Tensor
from dtrain.models.published import with_weights
from dtrain.ops.creation import empty, zeros
from dtrain.ops.shape import cat

__all__ = ["VisionTransformer", "vit_b_16"]


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).  (N, T, hidden_dim) -> the same"""

    def __init__(self, heads: int, hidden_dim: int, mlp_dim: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(hidden_dim, heads, dropout=attention_dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(hidden_dim, eps=1e-6)
        wide, narrow = nn.Linear(hidden_dim, mlp_dim), nn.Linear(mlp_dim, hidden_dim)
        self.mlp = nn.Sequential(wide, nn.GELU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout))
        for linear in (wide, narrow):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.dropout(self.self_attention(y, y, y, need_weights=False)[0])
        return x + self.mlp(self.ln_2(x))


class _Encoder(nn.Module):
    """norm(blocks(x + positions)).  (N, T, hidden_dim) -> the same"""

    def __init__(self, tokens: int, hidden_dim: int, dropout: float, blocks: list[_Block]) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(nn.init.normal_(empty(1, tokens, hidden_dim), std=0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential({f"encoder_layer_{i}": block for i, block in enumerate(blocks)})
        self.ln = nn.LayerNorm(hidden_dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class VisionTransformer(nn.Module):
    """A Transformer of patches and a token of the class.  (N, 3, image_size, image_size) -> (N, num_classes)

    image_size, patch_size: pixels of a side. num_layers, num_heads, hidden_dim, mlp_dim: of the encoder. dropout,
    attention_dropout: probabilities of the encoder. Raises ValueError for images of another size, and for patches that
    do not fill the image.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not fill an image of {image_size}; choose a multiple")
        self.image_size = image_size
        self.class_token = nn.Parameter(zeros(1, 1, hidden_dim))
        self.conv_proj = nn.Conv2d(3, hidden_dim, patch_size, stride=patch_size)
        nn.init.normal_(self.conv_proj.weight, std=math.sqrt(1 / (3 * patch_size**2)))
        if self.conv_proj.bias is not None:
            nn.init.zeros_(self.conv_proj.bias)
        blocks = [_Block(num_heads, hidden_dim, mlp_dim, dropout, attention_dropout) for _ in range(num_layers)]
        self.encoder = _Encoder((image_size // patch_size) ** 2 + 1, hidden_dim, dropout, blocks)
        head = nn.Linear(hidden_dim, num_classes)
        nn.init.zeros_(head.weight)
        if head.bias is not None:
            nn.init.zeros_(head.bias)
        self.heads = nn.Sequential({"head": head})

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        if x.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images of shape {x.shape}; this model was made for (N, 3, {self.image_size}, {self.image_size})"
            )
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = self.encoder(cat([self.class_token.expand(n, -1, -1), patches], 1))
        return self.heads(x[:, 0])


def vit_b_16(*, weights: str | bool | None = None, progress: bool = True, **kwargs: Any) -> VisionTransformer:
    """ViT-B/16: 86.6 M parameters, 81.1% of ImageNet with its published weights. Options: see `VisionTransformer`."""
    size = {"image_size": 224, "patch_size": 16, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
    return with_weights("vit_b_16", VisionTransformer, weights, progress, size | kwargs)
