"""comfy-kitchen's sparse attention: numbers where the package is, reasons everywhere."""

from __future__ import annotations

import pytest
import torch
from attention_cases import ADA, CPU, HOPPER, TURING, problem, tensors
from comfy_build import NEEDS_COMFY, installed  # noqa: F401  (a fixture)

from kernels import dispatch, reference
from kernels.attention import _checks, comfy_sol


@pytest.mark.usefixtures("installed")
def test_supports_says_what_is_wrong() -> None:
    for target in (ADA, HOPPER):
        assert comfy_sol.supports(problem(target=target, prefix=400)) is None
    for change, text in (
        ({"head_dim": 64}, "128"),
        ({"kv_len": 1000}, "1024 queries"),
        ({"mask": "lengths"}, "mask"),
        ({"dtype": "fp32"}, "dtype"),
        ({"target": TURING}, "8.0"),
        ({"target": CPU}, "CUDA"),
    ):
        assert text in (comfy_sol.supports(problem(**change)) or "")


def test_without_the_package_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "find_spec", lambda name: None)
    assert comfy_sol.supports(problem()) == "the package comfy-kitchen is not installed"


@pytest.mark.gpu
@NEEDS_COMFY
def test_it_passes_the_self_test() -> None:
    assert dispatch.self_test("comfy_sol", problem(prefix=400)).failure is None


@pytest.mark.gpu
@NEEDS_COMFY
def test_it_is_near_exact_attention_where_few_keys_count() -> None:
    """Neighbours alike and queries that point at some of them: what is left out has no weight."""
    base = torch.randn(1, 3, 64, 128, device="cuda").repeat_interleave(64, dim=2)
    k = (3.0 * base + 0.3 * torch.randn_like(base)).bfloat16()
    v = torch.randn_like(base).bfloat16()
    out = comfy_sol.run(k, k, v, scale=128**-0.5)
    assert reference.compare(out, reference.attention(k, k, v, scale=128**-0.5)).relative < 0.05


@pytest.mark.gpu
@NEEDS_COMFY
def test_torch_compile_keeps_it_in_one_graph() -> None:
    q, k, v = tensors(1000, 1000, 128, torch.bfloat16)
    compiled = torch.compile(lambda q: comfy_sol.run(q * 1.5, k, v, scale=0.1) + 1, fullgraph=True)
    eager = comfy_sol.run(q * 1.5, k, v, scale=0.1) + 1
    assert reference.compare(compiled(q), eager.float()).relative < 0.05
