"""What `torch.utils` has beside data loading, which is `dtrain.data`. May import `dtrain.autograd` and below."""

from dtrain.utils import checkpoint

__all__ = ["checkpoint"]
