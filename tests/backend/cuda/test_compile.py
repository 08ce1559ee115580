"""Every `.cu` file compiles for GPUs, where there is none: by NVRTC, as CuPy does it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dtrain import optim
from dtrain.autograd import Tensor
from dtrain.backend import traced
from dtrain.backend.cuda import fused
from dtrain.backend.cuda.loader import HERE, _whole, source
from tests.cuda_on_cpu import nvrtc

TYPES = ("float", "double", "__half", "__nv_bfloat16")
INSTANCES = {
    "attention": [
        *(f"attention<{t}, {size}, {more}>" for t in TYPES[2:] for size in ("64, 1", "64, 2", "128, 1")
          for more in ("true", "false")),
        *(f"attention_along<{t}>" for t in TYPES[2:]),
        *(f"attention_grad<{t}, {d}, {keys}, {more}>" for t in TYPES[2:] for d in (16, 128)
          for keys in ("true", "false") for more in ("true", "false")),
    ],
    "columns": [
        *(f"column_parts<{t}, {f}, {whole}>" for t in TYPES for whole in ("true", "false")
          for f in ("Sums", "Moments", "BatchNormSums", "LayerNormSums")),
        *(f"{name}<{t}>" for name in ("finish_sums", "finish_moments") for t in ("float", "double")),
        *(f"square_parts<{t}>" for t in TYPES),
        *(f"{name}<{t}, float, {whole}>" for name in ("batch_norm", "batch_norm_grad") for t in TYPES
          for whole in ("true", "false")),
    ],
    "elementwise": [
        *(f"unary<{f}, {t}>" for f in ("Relu", "Gelu", "Erf") for t in TYPES),
        *(f"binary<{f}, {t}>" for f in ("Add", "ReluGrad", "GeluGrad") for t in TYPES),
        *(f"convert<{s}, {t}>" for s in TYPES for t in TYPES if "double" not in (s, t) and s != t),
        *(f"convert_rows<{s}, {t}>" for s in TYPES for t in TYPES if "double" not in (s, t)),
    ],
    "images": [
        f"{name}<{t}, {whole}>"
        for name in (
            "im2col", "col2im", "avg_pool", "avg_pool_grad", "adaptive_avg_pool", "adaptive_avg_pool_grad", "depthwise",
            "depthwise_data_grad", "depthwise_weight_parts", "max_pool", "max_pool_grad",
        )
        for t in (f"{t}, unsigned char" if name.startswith("max") else t for t in TYPES)
        for whole in ("true", "false")
    ],
    "random": ["dropout_mask", "dropout_mask_of"],
    "rows": [
        f"{name}<{t}, {extra}{team}, {items}>"
        for name, extra in (
            ("softmax", "true, "), ("softmax", "false, "), ("softmax_grad", "true, "),
            ("softmax_grad", "false, "), ("cross_entropy", ""), ("cross_entropy_grad", ""),
            *((f"layer_norm{end}", f"float, {centred}, ") for end in ("", "_grad") for centred in ("true", "false")),
        )
        for t in TYPES
        for team in ("true", "false")
        for items in (0, 1, 4)
    ],
    "table": [
        *(f"{name}<{t}>" for name in ("sum_pieces", "join_pieces") for t in TYPES),
        *(f"{name}<{t}>" for name in ("count_digits", "move_keys") for t in ("long long", "int")),
        "sum_before",
    ],
}  # fmt: skip


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", [path.stem for path in sorted(HERE.glob("*.cu"))])
def test_compiles(name, architecture):
    if reason := nvrtc.why_not():
        pytest.skip(f"nothing to compile CUDA C++ with: {reason}")
    kernels = set(re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(", source(name)))
    assert kernels == {instance.partition("<")[0] for instance in INSTANCES[name]}
    code = nvrtc.compiled(source(name), INSTANCES[name], architecture)
    assert code[:4] == b"\x7fELF"
    with pytest.raises(nvrtc.CompileError, match="no_such_thing"):
        nvrtc.compiled(source(name) + "__global__ void broken() { no_such_thing(); }", [], architecture)


def test_a_fused_update_compiles():
    if reason := nvrtc.why_not():
        pytest.skip(f"nothing to compile CUDA C++ with: {reason}")
    optimizer = optim.Rprop([Tensor(np.zeros(2, np.float32))], lr=0.1)
    options = {name: optimizer.defaults[name] for name in ("lr", "etas", "step_sizes", "maximize")}
    trace = traced.Trace(np.dtype(np.float32), 8, 4)
    p, g, before, size = trace.arrays
    optimizer.update(p, g, {"prev": before, "step_size": size}, 2, **options)
    for pointed in (False, True):
        code = _whole(fused._source("float", trace.text(), 4, len(trace.numbers), pointed))
        assert nvrtc.compiled(code, ["fused"], "sm_80")[:4] == b"\x7fELF"
