"""`python -m dtrain.gpucheck [--json FILE]`: what the CUDA backend does on the GPU of this machine, in a few minutes.

Each check writes its results as soon as it has them. `kernels.py` compares every kernel with the reference,
`training.py` whole steps with those of the CPU, `speed.py` measures kernels against the card's own copies and
products, and steps against PyTorch's where it is installed.
"""

__all__: list[str] = []
