"""The FP8 linear with sums in fp32: the same values as its faster twin, and its own argument of the GEMM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from eight_bit import DEVICE, errors, normal

from kernels.fused import row_quant
from kernels.linear import fp8_full_accum, fp8_rowwise


def operands(size_k: int = 64) -> tuple[torch.Tensor, ...]:
    x8, x_scale = row_quant.plain(normal(17, size_k), quantize=fp8_full_accum.FORMAT)
    return x8, x_scale, *fp8_full_accum.quantize_weight(normal(32, size_k, seed=1))


@pytest.mark.parametrize(("module", "fast"), [(fp8_rowwise, True), (fp8_full_accum, False)])
def test_each_asks_for_its_accumulation(module: Any, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def gemm(x: torch.Tensor, w: torch.Tensor, *, use_fast_accum: bool, **_: Any) -> torch.Tensor:
        asked.append(use_fast_accum)
        return torch.zeros(x.shape[0], w.shape[1])

    monkeypatch.setattr(torch, "_scaled_mm", gemm)
    module.launch(*operands(), None, out_dtype=torch.bfloat16)
    assert asked == [fast]


def test_plain_is_that_of_its_twin() -> None:
    ours, twin = (m.run(*operands(), None, out_dtype=torch.float32) for m in (fp8_full_accum, fp8_rowwise))
    assert errors(ours, twin)[0] < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(
    DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (8, 9), reason="no FP8 on this GPU"
)
def test_gpu_is_nearer_to_plain_torch_than_its_twin() -> None:
    given = operands(4096)
    plain = fp8_full_accum.plain(*given, None, out_dtype=torch.float32)
    slow, fast = (m.run(*given, None, out_dtype=torch.float32) for m in (fp8_full_accum, fp8_rowwise))
    assert errors(slow, plain)[0] <= errors(fast, plain)[0] < 0.01
