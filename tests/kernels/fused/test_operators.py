"""The operators of torch that the kernels become, and what a kernel file's functions share."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import pytest
import torch
from eight_bit import DEVICE, needs_triton, normal

from kernels.fused import (
    _jit,
    channel_norm,
    gate_residual,
    head_norm_rope,
    head_quant,
    qk_norm_rope,
    residual_norm,
    rms_norm,
    row_quant,
    swiglu,
)
from kernels.fused._operators import entry_points
from kernels.linear import int8

ROOT = Path(__file__).resolve().parents[3]


def operators() -> dict[str, tuple[str, tuple[object, ...]]]:
    """Of every operator of `fused` and `linear`: its name and arguments."""
    h, rows, values = normal(2, 5, 24), normal(2, 2, 24, seed=1), normal(24, seed=2)
    angles = normal(1, 5, 1, 8, seed=3)
    x8, scales = torch.ones(5, 32, dtype=torch.int8, device=DEVICE), torch.ones(5, device=DEVICE)
    image = normal(2, 8, 3, 3).to(memory_format=torch.channels_last)
    return {
        "residual_norm": (
            "residual_norm",
            (h, h, rows, rows, rows, None, None, 2, 1e-6, "int8"),
        ),
        "affine": (
            "residual_norm",
            (h, None, None, None, None, values, values, 0, 1e-6, None),
        ),
        "gate_residual": ("gate_residual", (h, h, rows, 2)),
        "row_quant": ("row_quant", (h, "int8", "gelu_tanh")),
        "qk_norm_rope": ("qk_norm_rope", (h, values, angles, angles, 3, 1e-6, None)),
        "head_norm_rope": (
            "head_norm_rope",
            (h, values[:8], angles[0, :, 0], angles[0, :, 0], 3, 1e-6, None, normal(2, 3, 3, 8)),
        ),
        "rms_norm": ("rms_norm", (h, h, values, 1e-6, "int8")),
        "swiglu": ("swiglu", (h, "int8")),
        "head_quant": ("head_quant", (h.unflatten(2, (3, 8)),)),
        "int8_linear": ("int8_linear", (x8, scales, x8, scales, None, torch.float32)),
        "int8_epilogue": ("int8_epilogue", (x8.int(), scales, normal(32), None, torch.bfloat16)),
        "channel_norm": (
            "channel_norm",
            (image, values[:8], None, image.clone(), torch.zeros_like(image), True),
        ),
        "channel_add": ("channel_add", (image, values[:8], image.clone())),
        "channel_add_norm": (
            "channel_add_norm",
            (image, None, image.clone(), values[:8], True, torch.zeros_like(image), None),
        ),
    }


@needs_triton
@pytest.mark.parametrize("name", operators() if _jit.triton is not None else ())
def test_operators_tell_torch_compile_the_truth(name: str) -> None:
    """What an operator writes, and the shapes and strides it announces without running."""
    operator, arguments = operators()[name]
    torch.library.opcheck(
        getattr(torch.ops.retake, operator).default, arguments, test_utils=("test_schema", "test_faketensor")
    )


GRAPHS = """
import contextlib, torch
from torch._dynamo.backends.common import aot_autograd
from kernels.fused import kernels_inside, row_quant

class Quantizing(torch.nn.Module):
    def forward(self, x):
        x8, scale = row_quant.launch(x, quantize="fp8", activation="gelu_tanh")
        return x8.float() * scale

def tell(graph, inputs):
    print(*(node.target for node in graph.graph.nodes if node.op == "call_function"))
    raise NotImplementedError("not run")

module = torch.export.export(Quantizing(), (torch.ones(5, 24),), strict=False).module()
for context in (contextlib.nullcontext(), kernels_inside()):
    torch._dynamo.reset()
    with context, torch.no_grad(), contextlib.suppress(torch._dynamo.exc.BackendCompilerFailed):
        torch.compile(module, backend=aot_autograd(fw_compiler=tell), fullgraph=True)(torch.ones(5, 24))
"""


@needs_triton
def test_code_compiled_ahead_of_time_has_the_kernels_inside() -> None:
    """Traced without the interpreter, whose kernels no compiler sees; nothing is launched."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", GRAPHS], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    usual, inside = done.stdout.splitlines()
    assert "retake.row_quant.default" in usual and "triton_kernel" not in usual
    assert "triton_kernel_wrapper_functional" in inside and "retake." not in inside


@dataclass(frozen=True, slots=True)
class Scaled:
    x: torch.Tensor
    _: KW_ONLY
    factor: float = 2.0


def test_run_checks_and_goes_where_its_first_tensor_is() -> None:
    """Eager and as one graph, with keywords and defaults."""

    def check(args: Scaled) -> None:
        assert args.factor > 0, "the factor is not positive"

    run, plain, launch = entry_points(
        Scaled, plain=lambda args: args.x * args.factor, launch=lambda args: args.x * 0, check=check
    )
    x = torch.ones(3)
    assert run(x, factor=3.0).tolist() == [3.0] * 3 and plain(x).tolist() == [2.0] * 3
    assert launch(x=x).tolist() == [0.0] * 3
    with pytest.raises(AssertionError, match="not positive"):
        run(x, factor=-1.0)
    assert plain(x, factor=-1.0).tolist() == [-1.0] * 3
    compiled = torch.compile(lambda x: run(x, factor=3.0), fullgraph=True, backend="eager")
    assert compiled(x).tolist() == [3.0] * 3


@needs_triton
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_launches_trace_as_one_graph(quantize: str | None) -> None:
    h, weight, angles = normal(1, 5, 24), normal(24, seed=1), normal(5, 8, seed=2)
    image = normal(2, 8, 3, 3).to(memory_format=torch.channels_last)

    def every(h: torch.Tensor) -> list[torch.Tensor | None]:
        h = gate_residual.launch(h, h)
        h, n, scale = residual_norm.launch(h, h, weight=weight, bias=weight, eps=1e-6, quantize=quantize)
        h, _, _ = rms_norm.launch(h, None, weight, eps=1e-6, quantize=quantize)
        one = qk_norm_rope.launch(h, weight, heads=3, eps=1e-6)
        other = head_norm_rope.launch(h, weight[:8], angles, angles, heads=3, eps=1e-6, before=one)
        up, _ = swiglu.launch(h, quantize=quantize)
        x8, x_scale = row_quant.launch(h, quantize="int8", activation="gelu_tanh")
        out = int8.launch(x8, x_scale, x8[0], x_scale[0, :, 0], None, out_dtype=torch.float32)
        normed = channel_norm.launch(image + h.sum(), weight[:8], silu=True, bias=weight[:8])
        return [h, n, scale, other, up, x8, out, normed, head_quant.launch(one)[1]]

    compiled = torch.compile(every, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(compiled(h), every(h), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
