"""What this machine can do at most: rates of large GEMMs and of a copy, power and clock.

Measured in the run that is compared with them, on random data, so that a percentage means this very card.
"""

from __future__ import annotations

import torch

from bench.perf.nvml import Gpu, NoReading
from kernels import timing
from kernels.descriptors import LinearProblem, Target
from kernels.fused import row_quant
from kernels.linear import fp8_rowwise

SIZE = 8192
COPY_BYTES = 2**31


def measure(repeats: int = 20) -> dict[str, float]:
    """TFLOP/s of bf16 and FP8 GEMMs of 8192 cubed, TB/s of a copy (read plus write); empty on a CPU."""
    if not torch.cuda.is_available():
        return {}
    found = {}
    a = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
    flops = 2.0 * SIZE**3
    found["bf16_gemm_tflops"] = flops / _median(lambda: a @ b, repeats) / 1e9
    target = Target.of(a.device)
    problem = LinearProblem(rows=SIZE, in_features=SIZE, out_features=SIZE, dtype="bf16", target=target)
    if fp8_rowwise.supports(problem) is None:
        a8, a_scale = row_quant.run(a, quantize="fp8")
        b8, b_scale = fp8_rowwise.quantize_weight(b)
        gemm = lambda: fp8_rowwise.run(a8, a_scale, b8, b_scale, None, out_dtype=torch.bfloat16)  # noqa: E731
        found["fp8_gemm_tflops"] = flops / _median(gemm, repeats) / 1e9
    source = torch.empty(COPY_BYTES, dtype=torch.int8, device="cuda")
    target_buffer = torch.empty_like(source)
    found["copy_tb_per_s"] = 2 * COPY_BYTES / _median(lambda: target_buffer.copy_(source), repeats) / 1e9
    return found


def power_and_clock() -> dict[str, float]:
    """Watts and SM clock at this moment of the current GPU; empty where NVML cannot be asked."""
    try:
        gpu = Gpu.current()
        return {
            "power_w": gpu.power_w(),
            "sm_clock_mhz": gpu.sm_clock_mhz(),
            "power_limit_w": gpu.power_limit_w(),
        }
    except NoReading:
        return {}


def _median(function: timing.Function, repeats: int) -> float:
    return timing.summary(timing.time_gpu(function, repeats=repeats, warmup=5)).median
