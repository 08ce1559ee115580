"""Automatic mixed precision: `torch.amp`. Matrix products and convolutions in two-byte floats, weights in float32."""

from dtrain.amp.autocast_mode import autocast, get_autocast_dtype, is_autocast_available, is_autocast_enabled
from dtrain.amp.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast", "get_autocast_dtype", "is_autocast_available", "is_autocast_enabled"]
