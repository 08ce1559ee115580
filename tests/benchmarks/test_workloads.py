"""The models of the benchmarks are the same ones in dtrain as in PyTorch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain import nn

PARAMETERS = {"tiny": 2_410, "mlp": 669_706, "cnn": 421_834, "resnet18": 11_173_962, "gpt": 4_820_992, "lstm": 958560}


@pytest.mark.parametrize("name", PARAMETERS)
def test_scores_and_gradients_are_pytorchs(torch: Any, name: str) -> None:
    from workloads import WORKLOADS

    assert {n for n, w in WORKLOADS.items() if not w.bf16} == set(PARAMETERS)
    workload = WORKLOADS[name]
    workload = replace(workload, shape=(2, *workload.shape[1:]))  # few samples are enough
    model, twin = workload.make(nn).double(), workload.make(torch.nn).double()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    model.load_state_dict({key: value.numpy() for key, value in twin.state_dict().items()})
    x, y = workload.batch()
    x = x.astype(np.float64) if x.dtype.kind == "f" else x
    scores, wanted = model(dtrain.from_numpy(x)), twin(torch.from_numpy(x))
    np.testing.assert_allclose(scores.detach().numpy(), wanted.detach().numpy(), rtol=1e-8, atol=1e-10)
    for library, s in ((dtrain, scores), (torch, wanted)):
        labels = library.from_numpy(y).reshape(-1)
        library.nn.functional.cross_entropy(s.reshape(len(labels), -1), labels).backward()
    for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-7, atol=1e-9, err_msg=key)
