"""Bad input gets an error that says what was given."""

from __future__ import annotations

import pytest

import dtrain
from dtrain.nn import functional as F


def t(*shape: int) -> dtrain.Tensor:
    return dtrain.zeros(*shape)


ERRORS = {
    "linear": (lambda: F.linear(t(2, 3), t(4, 5)), ValueError, r"\(2, 3\).*\(4, 5\).*must be 5"),
    "matmul": (lambda: t(2, 3) @ t(2, 3), ValueError, r"\(2, 3\) and \(2, 3\)"),
    "matmul 0-d": (lambda: t(2, 3) @ t(), ValueError, "do not fit"),
    "attention shapes": (
        lambda: F.scaled_dot_product_attention(t(2, 3), t(4, 5), t(4, 5)),
        ValueError,
        r"query \(2, 3\), key \(4, 5\) and value \(4, 5\) do not fit",
    ),
    "attention masks": (
        lambda: F.scaled_dot_product_attention(t(2, 3), t(2, 3), t(2, 3), t(2, 2), is_causal=True),
        ValueError,
        "not both",
    ),
    "attention dropout": (
        lambda: F.scaled_dot_product_attention(t(2, 3), t(2, 3), t(2, 3), dropout_p=-1),
        ValueError,
        "got -1",
    ),
    "conv channels": (lambda: F.conv2d(t(1, 3, 4, 4), t(2, 2, 3, 3)), ValueError, "must have 2 channels"),
    "conv groups": (lambda: F.conv2d(t(1, 4, 4, 4), t(3, 2, 3, 3), groups=2), ValueError, "groups must divide 3"),
    "conv kernel": (lambda: F.conv2d(t(1, 1, 4, 4), t(1, 1, 5, 5)), ValueError, r"larger than the padded.*\(4, 4\)"),
    "conv bias": (lambda: F.conv2d(t(1, 1, 4, 4), t(2, 1, 3, 3), t(3)), ValueError, r"\(3,\)"),
    "conv stride": (lambda: F.conv2d(t(1, 1, 4, 4), t(1, 1, 3, 3), stride=0), ValueError, "at least 1, got 0"),
    "conv images": (lambda: F.conv2d(t(4, 4), t(1, 1, 3, 3)), ValueError, "3 or 4 dimensions"),
    "pool size": (lambda: F.max_pool2d(t(1, 1, 2, 2), 3), ValueError, "larger than the padded image"),
    "pool padding": (lambda: F.avg_pool2d(t(1, 1, 4, 4), 2, padding=2), ValueError, "more than half the kernel"),
    "reshape": (lambda: t(2, 3).reshape(4, 2), ValueError, r"\(2, 3\) \(6 elements\)"),
    "view": (lambda: t(2, 3).view(-1, 4), ValueError, "cannot take the shape"),
    "permute": (lambda: t(2, 3).permute(0, 0), ValueError, "no permutation"),
    "unsqueeze": (lambda: t(2).unsqueeze(3), IndexError, "dim 3 is out of range"),
    "squeeze": (lambda: t(2).squeeze(1), IndexError, "out of range"),
    "transpose": (lambda: t(2, 3).transpose(0, 2), IndexError, "out of range"),
    "cat": (lambda: dtrain.cat([t(2, 3), t(2, 4)]), ValueError, r"\(2, 3\), \(2, 4\)"),
    "cat nothing": (lambda: dtrain.cat([]), ValueError, "at least one"),
    "stack": (lambda: dtrain.stack([t(2), t(3)]), ValueError, "one shape"),
    "split": (lambda: t(5).split([2, 2]), ValueError, "add up to 4"),
    "sum": (lambda: t(2).sum(2), IndexError, "dim 2 is out of range"),
    "mean": (lambda: t(2).long().mean(), TypeError, r"int64; convert with \.float\(\)"),
    "softmax": (lambda: t(2).softmax(1), IndexError, "dim 1 is out of range"),
    "where": (lambda: dtrain.where(t(2), t(2), t(2)), TypeError, "dtype bool"),
    "clamp": (lambda: t(2).clamp(), ValueError, "min, max or both"),
    "gelu": (lambda: F.gelu(t(2), approximate="erf"), ValueError, "'erf'"),
    "embedding range": (lambda: F.embedding(dtrain.tensor([0, 5]), t(3, 2)), IndexError, "row 5 .* 3 rows"),
    "embedding dtype": (lambda: F.embedding(t(2), t(3, 2)), TypeError, "float32"),
    "cross_entropy range": (
        lambda: F.cross_entropy(t(2, 3), dtrain.tensor([0, 3])),
        IndexError,
        "target 3 of sample 1 .* 3 classes",
    ),
    "cross_entropy negative": (
        lambda: F.cross_entropy(t(2, 3), dtrain.tensor([-1, 0])),
        IndexError,
        "target -1 of sample 0",
    ),
    "cross_entropy shape": (
        lambda: F.cross_entropy(t(2, 3), dtrain.tensor([0, 1, 2])),
        ValueError,
        r"of shape \(2,\), got \(3,\)",
    ),
    "cross_entropy weights": (
        lambda: F.cross_entropy(t(2, 3), dtrain.tensor([0, 1]), t(2)),
        ValueError,
        "class weights",
    ),
    "cross_entropy smoothing": (
        lambda: F.cross_entropy(t(2, 3), dtrain.tensor([0, 1]), label_smoothing=2),
        ValueError,
        "got 2",
    ),
    "cross_entropy bool": (
        lambda: F.cross_entropy(t(2, 3), dtrain.tensor([True, False])),
        TypeError,
        "integer dtype, got bool",
    ),
    "reduction": (lambda: F.mse_loss(t(2), t(2), reduction="avg"), ValueError, "'avg'"),
    "mse shape": (lambda: F.mse_loss(t(2), t(3)), ValueError, r"\(2,\).*\(3,\)"),
    "batch_norm shape": (lambda: F.batch_norm(t(2, 3), t(4), t(4)), ValueError, r"\(2, 3\).*\(4,\)"),
    "batch_norm one": (
        lambda: F.batch_norm(t(1, 3), None, None, training=True),
        ValueError,
        "more than one value per channel",
    ),
    "layer_norm": (lambda: F.layer_norm(t(2, 3), (4,)), ValueError, r"\(2, 3\) does not end"),
    "broadcast": (lambda: t(2) + t(3), ValueError, r"\(2,\) and \(3,\)"),
    "index": (lambda: t(2)[2], IndexError, "index 2 is out of bounds"),
    "masked_fill half": (
        lambda: t(2).half().masked_fill(dtrain.tensor([True, False]), -1e9),
        TypeError,
        "-1000000000.0 does not fit dtype float16",
    ),
    "masked_fill int": (
        lambda: dtrain.tensor([1, 2]).masked_fill(dtrain.tensor([True, False]), float("inf")),
        TypeError,
        "inf does not fit dtype int64",
    ),
    "cross_entropy weight": (
        lambda: F.cross_entropy(t(2, 3), dtrain.tensor([0, 1]), t(3).double()),
        TypeError,
        "float64.*float32",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_names_what_was_given(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
