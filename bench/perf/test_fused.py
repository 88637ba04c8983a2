"""Fused element-wise kernels at the sizes of Wan2.1-1.3B: GB/s of the bytes that must be read and written.

Each is compared with its own formula in plain torch on fp32 inputs; 8-bit outputs are compared dequantized,
within the error that their format states.
B batch . S tokens . C channels . A heads . D head size . F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.perf.benchmark_tools import (
    DEVICE,
    DTYPE,
    HAS_GPU,
    TARGET,
    TINY,
    Benchmark,
    assert_close,
    measure,
    need,
    normal,
    size_bytes,
    sizes,
)
from kernels.fused import gate_residual, head_quant, qk_norm_rope, residual_norm, row_quant
from kernels.fused.formats import FP8, dequantize, format_of, hadamard

EPS = 1e-6
SHAPES = {"480p": (32760, 12, 128, 8960), "draft": (8190, 12, 128, 8960), TINY: (65, 2, 64, 256)}
"""S, A, D, F; C = A * D."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`run` is timed; `values` makes fp32 values of what it returns; `moved_bytes` counts outputs too."""

    run: Callable[[], object]
    values: Callable[[Any], Tensor]
    exact: Tensor
    moved_bytes: int
    format: str | None


def residual_norm_case(size: str, fmt: str | None) -> Case:
    tokens, heads, head_dim, _ = SHAPES[size]
    channels = heads * head_dim
    _needs_kernel("residual_norm", residual_norm.supports(TARGET, channels=channels, quantize=fmt))
    h, y = normal(1, tokens, channels, seed=1), normal(1, tokens, channels, seed=2)
    rows = normal(1, 2, 3, channels, seed=3, dtype=torch.float32)
    gate, scale, shift = (0.1 * rows[:, :, i] for i in range(3))
    options: dict[str, Any] = {"scale": scale, "shift": shift, "split": tokens // 4, "eps": EPS}
    # The norm sees the residual stream rounded, so the exact one does too.
    stream = gate_residual.plain(h, y, gate, split=tokens // 4)
    exact = residual_norm.plain(stream.float(), **options)[1]

    def values(made: object) -> Tensor:
        assert isinstance(made, tuple)
        return made[1].float() if fmt is None else dequantize(made[1], made[2])

    run = lambda: residual_norm.run(h, y, gate, **options, quantize=fmt)  # noqa: E731
    made = run()
    return Case(
        run=run,
        values=values,
        exact=exact,
        moved_bytes=size_bytes(h, y, gate, scale, shift, *made),
        format=fmt,
    )


def gate_residual_case(size: str, fmt: str | None) -> Case:
    tokens, heads, head_dim, _ = SHAPES[size]
    channels = heads * head_dim
    _needs_kernel("gate_residual", gate_residual.supports(TARGET, channels=channels))
    h, y = normal(1, tokens, channels, seed=1), normal(1, tokens, channels, seed=2)
    gate = normal(1, 2, channels, seed=3, dtype=torch.float32)
    split = tokens // 4
    return Case(
        run=lambda: gate_residual.run(h, y, gate, split=split),
        values=_float,
        exact=gate_residual.plain(h.float(), y.float(), gate, split=split),
        moved_bytes=size_bytes(h, y, gate, h),
        format=fmt,
    )


def qk_norm_rope_case(size: str, fmt: str | None) -> Case:
    tokens, heads, head_dim, _ = SHAPES[size]
    _needs_kernel("qk_norm_rope", qk_norm_rope.supports(TARGET, heads=heads, head_dim=head_dim, quantize=fmt))
    x = normal(1, tokens, heads * head_dim, seed=1)
    weight = 1 + 0.1 * normal(heads * head_dim, seed=2)
    angles = normal(1, tokens, 1, head_dim // 2, seed=3, dtype=torch.float32)
    cos, sin = (f(angles).repeat_interleave(2, dim=-1).contiguous() for f in (torch.cos, torch.sin))
    scale = None if fmt is None else qk_norm_rope.static_scale(weight, heads)
    options: dict[str, Any] = {"heads": heads, "eps": EPS}
    exact = qk_norm_rope.plain(x.float(), weight, cos, sin, **options)
    run = lambda: qk_norm_rope.run(x, weight, cos, sin, **options, scale=scale)  # noqa: E731
    return Case(
        run=run,
        values=lambda made: _float(made) if scale is None else _float(made) * scale[:, None],
        exact=exact if scale is None else hadamard(exact),
        moved_bytes=size_bytes(x, weight, cos, sin, run()),
        format=fmt,
    )


def row_quant_case(size: str, fmt: str | None) -> Case:
    """The input of the second feed-forward layer: GELU and quantization."""
    tokens, _, _, features = SHAPES[size]
    assert fmt is not None, "quantization has a format"
    _needs_kernel(
        "row_quant", row_quant.supports(TARGET, features=features, quantize=fmt, activation="gelu_tanh")
    )
    x = normal(1, tokens, features, seed=1)
    run = lambda: row_quant.run(x, quantize=fmt, activation="gelu_tanh")  # noqa: E731
    return Case(
        run=run,
        values=lambda made: dequantize(*made),
        exact=torch.nn.functional.gelu(x.float(), approximate="tanh"),
        moved_bytes=size_bytes(x, *run()),
        format=fmt,
    )


def head_quant_case(size: str, fmt: str | None) -> Case:
    tokens, heads, head_dim, _ = SHAPES[size]
    _needs_kernel("head_quant", head_quant.supports(TARGET, head_dim=head_dim))
    v = normal(1, tokens, heads, head_dim, seed=1)
    v8, scale = head_quant.run(v)
    return Case(
        run=lambda: head_quant.run(v),
        values=lambda made: dequantize(made[0], made[1][:, None, :, None]),
        exact=v.float(),
        # the largest value must be known before the first is rounded, so v is read twice
        moved_bytes=size_bytes(v, v, v8, scale),
        format=fmt,
    )


CASES: dict[str, tuple[Callable[[str, str | None], Case], tuple[str | None, ...]]] = {
    "residual_norm": (residual_norm_case, (None, "fp8", "int8")),
    "gate_residual": (gate_residual_case, (None,)),
    "qk_norm_rope": (qk_norm_rope_case, (None, "fp8")),
    "row_quant": (row_quant_case, ("fp8", "int8")),
    "head_quant": (head_quant_case, (FP8.name,)),
}
NAMED = [(name, fmt) for name, (_, formats) in CASES.items() for fmt in formats]


@sizes("480p", "draft")
@pytest.mark.parametrize(("name", "fmt"), NAMED, ids=[f"{name}-{fmt or DTYPE}" for name, fmt in NAMED])
def test_fused(benchmark: Benchmark, name: str, fmt: str | None, size: str) -> None:
    case = CASES[name][0](size, fmt)
    relative = torch.finfo(DTYPE).eps if case.format is None else _allowed(name, case.format)
    errors = assert_close(case.values(case.run()), case.exact, relative=relative, cosine=0.998)
    measure(
        benchmark,
        case.run,
        group=f"{name} {size} on {DEVICE.type}",
        num_bytes=case.moved_bytes,
        errors=errors,
    )


def _allowed(name: str, fmt: str) -> float:
    """What the format states for rows of normal values. GELU leaves its rows one-sided, with more of their
    values near zero: int8, whose step is the same everywhere, loses up to twice as much there."""
    return format_of(fmt).relative_error * (2 if name == "row_quant" and fmt == "int8" else 1)


def _needs_kernel(name: str, reason: str | None) -> None:
    """On a CPU `run` is plain torch, which is measured at the tiny size; on a GPU the kernel must run."""
    need(name, reason if HAS_GPU else None)


def _float(made: object) -> Tensor:
    assert isinstance(made, Tensor)
    return made.float()
