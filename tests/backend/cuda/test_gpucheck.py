"""`python -m dtrain.gpucheck` itself, on the stand-in: all but speed and ranks."""

from __future__ import annotations

import json

from dtrain.gpucheck import __main__ as gpucheck


def test_its_report(gpu, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpucheck.kernels, "DTYPES", gpucheck.kernels.DTYPES[:1])
    report = gpucheck.Report(tmp_path / "found.json")
    gpucheck._versions(report, gpu)
    gpucheck._kernels(report, gpu)
    gpucheck._training(report)
    report.attempt("kernels", "broken", lambda: 1 / 0)
    found = json.loads((tmp_path / "found.json").read_text())
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.endswith("WRONG")]
    assert wrong == ["kernels: broken: ZeroDivisionError: division by zero   WRONG"] and report.failed == 1
    assert found["versions"]["device"] == "emulated"
    assert found["training"]["mlp: a CUDA graph has the bits of the step"] is True
    assert any("convolution" in name for name in found["kernels"])
