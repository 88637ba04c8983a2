"""The last rounding inside the kernels, and what is left of the kernels without Triton."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from eight_bit import DEVICE, needs_triton, normal

from kernels.descriptors import Target
from kernels.fused import _jit

ROOT = Path(__file__).resolve().parents[3]
MODULES = (
    "fused.residual_norm",
    "fused.gate_residual",
    "fused.qk_norm_rope",
    "fused.head_quant",
    "fused.row_quant",
    "linear.fp8_rowwise",
    "linear.int8",
)

if _jit.triton is not None:
    tl = _jit.tl
    to_eight_bit, to_element = _jit.to_eight_bit, _jit.to_element

    @_jit.jit
    def _round(x_ptr, fp8_ptr, int8_ptr, bf16_ptr, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        place = tl.arange(0, BLOCK)
        x = tl.load(x_ptr + place, mask=place < size, other=0.0)
        tl.store(fp8_ptr + place, to_eight_bit(x, 1), mask=place < size)
        tl.store(int8_ptr + place, to_eight_bit(x, 2), mask=place < size)
        tl.store(bf16_ptr + place, to_element(x, bf16_ptr), mask=place < size)


@needs_triton
@pytest.mark.skipif(
    DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (8, 9), reason="no conversion to FP8"
)
def test_rounding_is_that_of_torch() -> None:
    special = [0.0, -0.0, 0.5, 1.5, 2.5, -2.5, 1.9999, 31.8, 126.1, 2**-6, 2**-7, 2**-9, 2**-10, 1.5 * 2**-9]
    special += [447.9, 448.0, 449.0, 500.0, -500.0, 17.0, 19.0, 1.0625, 1.1875, 127.4, 126.5, 3.3e38]
    special += [float("inf"), float("-inf")]
    x = torch.cat(
        [torch.tensor(special, device=DEVICE), normal(970, size=20.0), normal(24, size=0.004, seed=1)]
    )
    fp8 = torch.empty(1024, dtype=torch.float8_e4m3fn, device=DEVICE)[: len(x)]
    int8, bf16 = torch.empty_like(x, dtype=torch.int8), torch.empty_like(x, dtype=torch.bfloat16)
    _round[(1,)](x, fp8, int8, bf16, len(x), BLOCK=1024)
    assert torch.equal(fp8.float(), x.clamp(-448, 448).to(torch.float8_e4m3fn).float())
    assert torch.equal(int8, x.clamp(-127, 127).round().to(torch.int8))
    assert torch.equal(bf16, x.to(torch.bfloat16))


@needs_triton
@pytest.mark.skipif(
    DEVICE.type == "cuda" and torch.cuda.get_device_capability() < (8, 9), reason="no conversion to FP8"
)
def test_not_a_number_stays_one_in_e4m3() -> None:
    x = torch.tensor([1.0, float("nan"), -float("nan"), 2.0], device=DEVICE)
    fp8 = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    _round[(1,)](x, fp8, *(torch.empty_like(x, dtype=t) for t in (torch.int8, torch.bfloat16)), 4, BLOCK=16)
    assert fp8.isnan().tolist() == [False, True, True, False]


@needs_triton
def test_reasons() -> None:
    assert "CUDA" in str(_jit.why_not(Target(kind="cpu", capability=None)))
    assert _jit.why_not(Target(kind="cpu", capability=None, interpreted=True), "fp8") is None
    assert "8.0" in str(_jit.why_not(Target(kind="cuda", capability=(7, 5))))
    assert _jit.why_not(Target(kind="cuda", capability=(8, 6)), "int8") is None
    assert "E4M3" in str(_jit.why_not(Target(kind="cuda", capability=(8, 6)), "fp8"))
    assert _jit.why_not(Target(kind="cuda", capability=(8, 9)), "fp8") is None


def test_sizes() -> None:
    assert [_jit.block_size(size) for size in (1, 16, 17, 1536, 2048, 2049)] == [16, 16, 32, 2048, 2048, 4096]
    assert [_jit.ceil_div(size, 4) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("size", "tiles"),
    [(8960, (8192, 1024)), (13824, (16384, 0)), (1536, (1024, 512)), (1024, (1024, 0)), (5, (16, 0))],
)
def test_two_tiles_hold_a_row_without_much_waste(size: int, tiles: tuple[int, int]) -> None:
    assert _jit.two_tiles(size) == tiles
    assert size <= sum(tiles) <= max(16, 1.34 * size)


def test_every_kernel_imports_without_triton_and_says_so() -> None:
    code = (
        "import importlib, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "sys.modules['triton'] = None\n"
        "import torch\n"
        "from kernels.descriptors import LinearProblem, Target\n"
        f"modules = [importlib.import_module('kernels.' + name) for name in {MODULES}]\n"
        "from kernels.fused import _jit, residual_norm, row_quant\n"
        "from kernels.linear import int8\n"
        "target = Target(kind='cuda', capability=(9, 0))\n"
        "assert residual_norm.supports(target, channels=8) == 'Triton is not installed'\n"
        "problem = LinearProblem(rows=8, in_features=16, out_features=16, dtype='bf16', target=target)\n"
        "assert int8.supports(problem) == 'Triton is not installed'\n"
        "h = torch.ones(1, 2, 8)\n"
        "residual_norm.run(h, h, eps=1e-6, quantize='fp8'), row_quant.run(h, quantize='int8')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
