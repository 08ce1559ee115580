"""A function that treats each element of its arrays by itself becomes one loop, in which every array is read once.

See `backend.traced`. LLVM compiles the loop for this processor, by way of llvmlite where that is installed; it is
compiled once for all calls that differ in numbers only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from string import Template
from typing import Any

import numpy as np

from dtrain.backend.cpu.onednn import address
from dtrain.backend.reference import elementwise as reference
from dtrain.backend.traced import COMPARISONS, NotElementwise, Text, traced

__all__ = ["each_element"]

_MANY = 1 << 15  # elements: with fewer, writing down what is done takes longer than doing it


def each_element(function: Callable[..., None], *arrays: np.ndarray, only_if: Any = None) -> None:
    """function(*arrays), which changes some of these 1-D arrays in place, each element by itself.

    arrays: of one length. only_if: an array of one truth, without which nothing is done. The bits are the reference's.
    """
    if only_if is not None and not only_if:
        return
    n = len(arrays[0])
    if n < _MANY or _llvm() is None or not all(a.flags.c_contiguous and a.flags.aligned for a in arrays):
        reference.each_element(function, *arrays)
        return
    try:
        trace = traced(function, arrays)
    except NotElementwise:
        reference.each_element(function, *arrays)
        return
    numbers = np.array(trace.numbers, trace.dtype)
    _compiled(trace.text(), len(arrays), trace.dtype).run(n, *map(address, arrays), address(numbers))


@cache
def _llvm() -> Any:
    """llvmlite's binding, ready to compile for this processor; None without it."""
    try:
        from llvmlite import binding
    except ImportError:
        return None
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


class _Loop:
    """The compiled loop. run(n, the arrays' addresses, that of the numbers)"""

    def __init__(self, source: str, arrays: int) -> None:
        llvm = _llvm()
        target = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
        )
        module = llvm.parse_assembly(source)
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        llvm.create_pass_builder(target, options).getModulePassManager().run(
            module, llvm.create_pass_builder(target, options)
        )
        self._engine = llvm.create_mcjit_compiler(module, target)  # has the code as long as it lives
        self._engine.finalize_object()
        function = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_size_t] * (arrays + 1))
        self.run = function(self._engine.get_function_address("fused"))


@cache
def _compiled(text: Text, arrays: int, dtype: np.dtype) -> _Loop:
    return _Loop(_source(text, arrays, dtype), arrays)


_SOURCE = """
declare $T @llvm.fabs.$suffix($T)
declare $T @llvm.sqrt.$suffix($T)

define void @fused(i64 %n, $pointers, ptr noalias %numbers) "prefer-vector-width"="512" {
start:
$numbers
  br label %loop

loop:
  %i = phi i64 [0, %start], [%next, %loop]
$steps
  %next = add nuw nsw i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %end, !llvm.loop !1

end:
  ret void
}

; No element's work depends on another's, also where two of the arrays are one.
!0 = distinct !{}
!1 = distinct !{!1, !2}
!2 = !{!"llvm.loop.parallel_accesses", !0}
"""
#: Of an op, one instruction or some; the last gives its value, and those before have names of their own. A comparison
#: with NaN is false (o, ordered), "ne" true.
_FORMS = {
    "add": ("fadd $T {0}, {1}",), "sub": ("fsub $T {0}, {1}",), "mul": ("fmul $T {0}, {1}",),
    "div": ("fdiv $T {0}, {1}",), "neg": ("fneg $T {0}",),
    "abs": ("call $T @llvm.fabs.$suffix($T {0})",), "sqrt": ("call $T @llvm.sqrt.$suffix($T {0})",),
    "lt": ("fcmp olt $T {0}, {1}",), "le": ("fcmp ole $T {0}, {1}",), "gt": ("fcmp ogt $T {0}, {1}",),
    "ge": ("fcmp oge $T {0}, {1}",), "eq": ("fcmp oeq $T {0}, {1}",), "ne": ("fcmp une $T {0}, {1}",),
    "max": ("fcmp ogt $T {0}, {1}", "fcmp uno $T {0}, {0}", "or i1 {v}.0, {v}.1", "select i1 {v}.2, $T {0}, $T {1}"),
    "min": ("fcmp olt $T {0}, {1}", "fcmp uno $T {0}, {0}", "or i1 {v}.0, {v}.1", "select i1 {v}.2, $T {0}, $T {1}"),
    "sign": (
        "fcmp oeq $T {0}, 0.0", "select i1 {v}.0, $T 0.0, $T {0}", "fcmp olt $T {0}, 0.0",
        "select i1 {v}.2, $T -1.0, $T {v}.1", "fcmp ogt $T {0}, 0.0", "select i1 {v}.4, $T 1.0, $T {v}.3",
    ),
    "where": ("select i1 {0}, $T {1}, $T {2}",), "copy": ("select i1 true, $T {0}, $T {0}",),
}  # fmt: skip


def _source(text: Text, arrays: int, dtype: np.dtype) -> str:
    """The loop in LLVM's language."""
    truths = {step.value for step in text.steps if step.op in COMPARISONS}
    lines: list[str] = []

    def operand(name: str, as_truth: bool) -> str:
        if as_truth == (name in truths):
            return f"%{name}"
        converted = f"%{name}.{len(lines)}.as"
        lines.append(f"{converted} = " + (f"fcmp une $T %{name}, 0.0" if as_truth else f"uitofp i1 %{name} to $T"))
        return converted

    for i in sorted(text.read):
        lines += [f"%p{i}.read = getelementptr $T, ptr %p{i}, i64 %i", f"%a{i} = load $T, ptr %p{i}.read, {_APART}"]
    for value, op, names in text.steps:
        operands = [operand(name, op == "where" and k == 0) for k, name in enumerate(names)]
        *before, last = (form.format(*operands, v=f"%{value}") for form in _FORMS[op])
        lines += [f"%{value}.{k} = {form}" for k, form in enumerate(before)]
        lines.append(f"%{value} = {last}")
    for i, value in text.written:
        stored = operand(value, False)
        lines += [f"%p{i}.to = getelementptr $T, ptr %p{i}, i64 %i", f"store $T {stored}, ptr %p{i}.to, {_APART}"]
    numbers = sorted({name for step in text.steps for name in step.operands if name.startswith("s")})
    loads = [f"%{s}.at = getelementptr $T, ptr %numbers, i64 {s[1:]}\n  %{s} = load $T, ptr %{s}.at" for s in numbers]
    kind, suffix = {4: ("float", "f32"), 8: ("double", "f64")}[dtype.itemsize]
    body = {"pointers": ", ".join(f"ptr %p{i}" for i in range(arrays)), "numbers": _indented(loads)}
    code = Template(_SOURCE).safe_substitute(body, steps=_indented(lines))
    return Template(code).substitute(T=kind, suffix=suffix)


_APART = "!llvm.access.group !0"


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
