"""`torch.nn.parallel`: PyTorch's name for where `dtrain.DistributedDataParallel` is."""

from dtrain.parallel import DistributedDataParallel

__all__ = ["DistributedDataParallel"]
