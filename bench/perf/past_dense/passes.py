"""Element-wise passes and 8-bit products: comfy-kitchen's against ours, at the width of Wan 1.3B.

Theirs do less in a pass: no residual is added, one row of modulation serves all tokens, nothing is rounded to
8 bits for the product behind it. B batch, S tokens, C channels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench.perf.past_dense.case import Case, against
from kernels.attention._comfy import DISTRIBUTION, PACKAGE
from kernels.descriptors import KernelError
from kernels.fused import residual_norm, row_quant
from kernels.linear import int8

ALLOWED = 0.02
EPS = 1e-6


def cases(*, small: bool) -> Iterator[Case]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens, channels, inner = (64, 128, 256) if small else (32760, 1536, 8960)
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)

    x, y, gate = normal(1, tokens, channels), normal(1, tokens, channels), normal(1, 1, channels)
    scale, shift = 0.1 * normal(1, 1, channels), 0.1 * normal(1, 1, channels)
    modulation: dict[str, Any] = {"scale": scale.float(), "shift": shift.float(), "eps": EPS}

    def norm(found: Tensor | tuple[Tensor, ...]) -> Tensor:
        return found if isinstance(found, Tensor) else found[1]

    def plain() -> Tensor:
        return residual_norm.plain(x, **modulation)[1]

    yield Case(
        name="ours: norm and modulation", of="one pass", allowed=ALLOWED, check=against(plain, norm),
        make=lambda: lambda: residual_norm.run(x, **modulation),
    )  # fmt: skip
    yield Case(
        name="comfy-kitchen: norm and modulation", of="one pass", allowed=ALLOWED, check=against(plain, norm),
        make=lambda: _theirs("adaln", x, scale, shift, EPS),
    )  # fmt: skip
    for quantize in (None, "int8"):
        yield Case(
            name=f"ours: residual, norm, modulation{', to int8' if quantize else ''}", of="one pass",
            allowed=0.0, check=lambda found: {},
            make=partial(
                partial, residual_norm.run, x, y, gate.float(), quantize=quantize, **modulation
            ),
        )  # fmt: skip
    yield from _products(normal(tokens, channels), normal(inner, channels))


def _products(x: Tensor, weight: Tensor) -> Iterator[Case]:
    """x [S, C] times weight [K, C], activations rounded to int8 in both."""

    def exact() -> Tensor:
        return x.float() @ weight.float().T

    w8, w_scale = int8.quantize_weight(weight)

    def ours() -> Tensor:
        x8, x_scale = row_quant.run(x, quantize="int8")
        return int8.run(x8, x_scale, w8, w_scale, None, out_dtype=torch.bfloat16)

    def theirs() -> Callable[[], Tensor]:
        library = _library()
        quantized, scales = library.quantize_int8_rowwise(weight)
        return lambda: library.int8_linear(x, quantized, scales)

    for name, make in (("ours: int8 linear", lambda: ours), ("comfy-kitchen: int8 linear", theirs)):
        yield Case(
            name=name, of="rounding of x, product, scales", allowed=0.05, make=make,
            check=against(exact, lambda out: out.float()),
        )  # fmt: skip


def _theirs(name: str, *arguments: Any) -> Callable[[], Tensor]:
    function = getattr(_library(), name)
    return lambda: function(*arguments)


def _library() -> Any:
    if find_spec(PACKAGE) is None:
        raise KernelError(f"the package {DISTRIBUTION} is not installed")
    return importlib.import_module(PACKAGE)
