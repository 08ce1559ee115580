"""What of PyTorch's lists is not compared, and why: in this file and nowhere else."""

from __future__ import annotations

from typing import Any

__all__ = [
    "INTEGERS_TOO", "RANDOM", "TIES", "UNDEFINED", "WITHOUT_GRADIENTS", "OutOfScope", "check_arguments", "check_error",
    "chosen", "why_not_function", "why_not_module",
]  # fmt: skip

# Samples of one name: all of them where there are few; else the first, and every k-th of the others.
FIRST, MOST = 20, 60


class OutOfScope(Exception):
    """A sample that asks for what dtrain does not have on purpose: the message says what."""


MODULES = {
    "nn.Lazy": "lazy modules, whose shapes are known only once data has come",
    "nn.LinearCrossEntropyLoss": "a fused kernel for large vocabularies, not part of the issue",
}

FUNCTIONS = {  # by the beginning of the name
    "_": "private functions of PyTorch",
    "alias_copy": "copies of views, for compilers",
    "as_strided": "strides are not part of dtrain's tensors",
    "cdouble": "complex numbers",
    "cfloat": "complex numbers",
    "chalf": "complex numbers",
    "bfloat16": "NumPy has no bfloat16",
    "complex": "complex numbers",
    "diagonal_copy": "copies of views, for compilers",
    "empty_permuted": "strides are not part of dtrain's tensors",
    "empty_strided": "strides are not part of dtrain's tensors",
    "expand_copy": "copies of views, for compilers",
    "fft.": "complex numbers",
    "grid_sampler_": "private functions of PyTorch; nn.functional.grid_sample is compared",
    "hash_tensor": "private functions of PyTorch",
    "imag": "complex numbers",
    "istft": "complex numbers",
    "jiterator_": "CUDA kernels from text",
    "linalg.eig": "complex numbers",
    "masked.": "masked tensors",
    "max_pool2d_with_indices_backward": "private functions of PyTorch",
    "narrow_copy": "copies of views, for compilers",
    "native_": "private functions of PyTorch",
    "new_empty_strided": "strides are not part of dtrain's tensors",
    "nn.functional.linear_cross_entropy": "a fused kernel for large vocabularies, not part of the issue",
    "nn.functional.silu.complex": "complex numbers",
    "permute_copy": "copies of views, for compilers",
    "polar": "complex numbers",
    "resize_": "storage is not part of dtrain's tensors",
    "signal.": "windows for spectra",
    "slice": "an operator of PyTorch's compiler, not a function of torch",
    "sparse.": "sparse tensors",
    "split_with_sizes_copy": "copies of views, for compilers",
    "squeeze_copy": "copies of views, for compilers",
    "stft": "complex numbers",
    "t_copy": "copies of views, for compilers",
    "to_sparse": "sparse tensors",
    "torch.": "private functions of PyTorch",
    "transpose_copy": "copies of views, for compilers",
    "unbind_copy": "copies of views, for compilers",
    "unfold_copy": "copies of views, for compilers",
    "unsqueeze_copy": "copies of views, for compilers",
    "view_as_": "complex numbers",
    "view_copy": "copies of views, for compilers",
}
IN_SCOPE_ALL_THE_SAME = ("__", "linalg.eigh", "linalg.eigvalsh", "slice_scatter")

# Results that depend on random draws. Where PyTorch's runs with several seeds agree (dropout in evaluation), dtrain's
# result must be the same; else its shape and dtype.
RANDOM = {
    "bernoulli", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "nn.functional.alpha_dropout",
    "nn.functional.dropout", "nn.functional.dropout2d", "nn.functional.dropout3d",
    "nn.functional.feature_alpha_dropout", "nn.functional.fractional_max_pool2d",
    "nn.functional.fractional_max_pool3d", "nn.functional.multi_head_attention_forward", "nn.functional.rrelu",
    "nn.functional.scaled_dot_product_attention", "normal", "rand_like", "randint", "randint_like", "randn",
    "randn_like", "uniform",
}  # fmt: skip

# Results with indices of which PyTorch leaves open which of equal elements comes first, unless it is told stable=True:
# the place of `dim` among the arguments behind the input.
TIES = {"argsort": 0, "sort": 0, "topk": 1}

# Results whose values mean nothing: shape and dtype.
UNDEFINED = {"empty", "empty_like", "new_empty"}

# dtrain refuses to write where that would spoil a gradient.
WITHOUT_GRADIENTS = {"fill", "zero_"}

# Functions with gradients that people use with integers as well.
INTEGERS_TOO = {
    "__getitem__", "abs", "add", "cat", "chunk", "clamp", "cumsum", "expand", "flatten", "flip", "gather", "index_add",
    "index_copy", "index_fill", "index_put", "index_select", "masked_fill", "masked_select", "maximum", "minimum",
    "mul", "neg", "permute", "pow", "prod", "repeat", "repeat_interleave", "reshape", "roll", "scatter", "scatter_add",
    "sort", "split", "squeeze", "stack", "sub", "sum", "take", "take_along_dim", "tile", "topk", "transpose", "tril",
    "triu", "unbind", "unsqueeze", "view", "where",
}  # fmt: skip

# Arguments that place a result in memory, which is not a thing of dtrain.
ARGUMENTS = {
    "generator": "random numbers are keyed by the step",
    "layout": "sparse tensors",
    "memory_format": "strides are not part of dtrain's tensors",
    "names": "named tensors",
    "out": "results are new tensors",
    "pin_memory": "CUDA",
    "sparse_grad": "sparse tensors",
}


# Errors of PyTorch where dtrain gives a result on purpose, by words of theirs.
ERRORS = {"unspecified dimension size -1": "microbatches without samples can be flattened: x.view(len(x), -1)"}


def why_not_module(name: str) -> str | None:
    """Why a module of PyTorch's list is out of scope; None where it is not."""
    return next((why for start, why in MODULES.items() if name.startswith(start)), None)


def why_not_function(name: str) -> str | None:
    """Why a function of PyTorch's list is out of scope; None where it is not."""
    if name.startswith(IN_SCOPE_ALL_THE_SAME):
        return None
    return next((why for start, why in FUNCTIONS.items() if name.startswith(start)), None)


def check_arguments(kwargs: dict[str, Any]) -> None:
    """Raise OutOfScope for an argument that dtrain's functions do not have on purpose."""
    for name, value in kwargs.items():
        if name in ARGUMENTS and value is not None and value is not False:
            raise OutOfScope(f"{name}=: {ARGUMENTS[name]}")


def check_error(words: str) -> None:
    """Raise OutOfScope for an error that dtrain does not raise on purpose."""
    if not words:
        raise OutOfScope("Python numbers in the place of tensors: dtrain takes them, too")
    for part, why in ERRORS.items():
        if part in words:
            raise OutOfScope(why)


def chosen(samples: list[Any]) -> list[Any]:
    """All samples, or MOST of them at most: the first ones, and every k-th of the others."""
    if len(samples) <= MOST:
        return samples
    step = -(-(len(samples) - FIRST) // (MOST - FIRST))
    return samples[:FIRST] + samples[FIRST::step]
