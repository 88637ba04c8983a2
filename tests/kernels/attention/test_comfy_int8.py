"""comfy-kitchen's INT8 attention: numbers where the package is, reasons everywhere."""

from __future__ import annotations

import pytest
import torch
from attention_cases import ADA, CPU, HOPPER, TURING, check, problem, tensors
from comfy_build import NEEDS_COMFY, installed  # noqa: F401  (a fixture)

from kernels.attention import _checks, comfy_int8


@pytest.mark.usefixtures("installed")
def test_supports_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for target in (TURING, ADA, HOPPER):
        assert comfy_int8.supports(problem(target=target)) is None
    for change, text in (
        ({"head_dim": 264}, "head size"),
        ({"mask": "lengths"}, "mask"),
        ({"dtype": "fp32"}, "dtype"),
        ({"target": CPU}, "CUDA"),
    ):
        assert text in (comfy_int8.supports(problem(**change)) or "")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "AMD" in (comfy_int8.supports(problem()) or "")


def test_without_the_package_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "find_spec", lambda name: None)
    assert comfy_int8.supports(problem()) == "the package comfy-kitchen is not installed"


@pytest.mark.gpu
@NEEDS_COMFY
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("q_len", "kv_len"), [(33, 70), (129, 129), (257, 251), (129, 8193), (1000, 77)])
def test_sizes(q_len: int, kv_len: int, head_dim: int) -> None:
    """Those of 129 queries over 8193 keys were published as failing in its own tests."""
    check(comfy_int8, *tensors(q_len, kv_len, head_dim, torch.bfloat16))


@pytest.mark.gpu
@NEEDS_COMFY
def test_torch_compile_keeps_it_in_one_graph() -> None:
    q, k, v = tensors(257, 129, 128, torch.bfloat16)
    compiled = torch.compile(lambda q, k, v: comfy_int8.run(q * 1.5, k, v, scale=0.1) + 1, fullgraph=True)
    assert (compiled(q, k, v) - comfy_int8.run(q * 1.5, k, v, scale=0.1) - 1).abs().max() < 0.05
