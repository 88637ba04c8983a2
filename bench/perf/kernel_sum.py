"""The kernels of one forward, each timed alone at its shape: what a forward without any gap would take.

Their sum over the forward's time says whether launches and fusion are done; it knows no module.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.perf.subjects import TEXT_TOKENS, Subject
from engine.presets import DenoiseSettings
from kernels import dispatch, timing
from kernels.fused import head_quant, qk_norm_rope, residual_norm, row_quant
from kernels.linear import fp8_rowwise, int8

EPS = 1e-6
REPEATS = 10


def kernel_sum_ms(subject: Subject, settings: DenoiseSettings) -> dict[str, float]:
    """Kernel -> its median time times the number of its calls in one forward, products in the set format."""
    batch, tokens, width = subject.batch, subject.num_tokens, subject.width_of_model
    inner, layers = subject.config["ffn_dim"], subject.config["num_layers"]
    heads = subject.config["num_attention_heads"]
    size = width // heads
    kind = settings.linear if settings.linear in ("fp8", "int8") else None
    h = torch.randn(batch, tokens, width, device="cuda", dtype=torch.bfloat16)
    rows = torch.randn(1, 1, width, device="cuda")
    weight = torch.rand(width, device="cuda") + 0.5
    rotary = torch.randn(1, tokens, 1, size, device="cuda")
    wide = torch.randn(batch, tokens, inner, device="cuda", dtype=torch.bfloat16)
    text = torch.randn(batch, heads, TEXT_TOKENS, size, device="cuda", dtype=torch.bfloat16)
    q = h.unflatten(2, (heads, size)).transpose(1, 2)
    norm = {"eps": EPS, "quantize": kind}
    eight_bit = bool(settings.low_attention)
    scale = qk_norm_rope.static_scale(weight, heads) if eight_bit else None
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "gate, residual, norm, modulation": (
            2 * layers, lambda: residual_norm.run(h, h, rows, scale=rows, shift=rows, **norm)
        ),
        "residual, norm": (layers, lambda: residual_norm.run(h, h, weight=weight, bias=weight, **norm)),
        "norm and rotary of q, k": (
            2 * layers,
            lambda: qk_norm_rope.run_one(h, weight, rotary, rotary, heads=heads, eps=EPS, scale=scale),
        ),
        "norm of text queries": (layers, lambda: qk_norm_rope.run_one(h, weight, heads=heads, eps=EPS)),
        "self-attention": (layers, _attention(q, settings, size)),
        "cross-attention": (
            layers, lambda: dispatch.load("sdpa_cudnn").run(q, text, text, scale=size**-0.5)
        ),
        "q, k, v": (layers, _product(h, 3 * width, kind)),
        "outputs and text queries": (3 * layers, _product(h, width, kind)),
        "up": (layers, _product(h, inner, kind)),
        "down": (layers, _product(wide, width, kind)),
    }  # fmt: skip
    if kind is not None:
        calls["quantize outputs"] = (2 * layers, lambda: row_quant.run(h, quantize=kind))
        calls["GELU, quantize"] = (
            layers,
            lambda: row_quant.run(wide, quantize=kind, activation="gelu_tanh"),
        )
    if eight_bit:
        calls["quantize v"] = (layers, lambda: head_quant.run(h.unflatten(2, (heads, size))))
    return {
        name: count * timing.summary(timing.time_gpu(call, repeats=REPEATS, warmup=3)).median
        for name, (count, call) in calls.items()
    }


def _attention(q: Tensor, settings: DenoiseSettings, size: int) -> Callable[[], object]:
    names = settings.low_attention or settings.attention or ("sdpa_cudnn",)
    module = dispatch.load(names[0])
    quantized = getattr(module, "run_quantized", None) if names[0].endswith("_fp8") else None
    if quantized is None:
        return lambda: module.run(q, q, q, scale=size**-0.5)
    q8, scale = head_quant.run(q.transpose(1, 2))
    q8 = q8.transpose(1, 2)
    return lambda: quantized(q8, q8, q8, scale, scale, scale, scale=size**-0.5)


def _product(x: Tensor, out_features: int, kind: str | None) -> Callable[[], object]:
    weight = torch.randn(out_features, x.shape[-1], device=x.device, dtype=x.dtype) / x.shape[-1] ** 0.5
    bias = torch.randn(out_features, device=x.device, dtype=x.dtype)
    if kind is None:
        return lambda: torch.nn.functional.linear(x, weight, bias)
    module = fp8_rowwise if kind == "fp8" else int8
    x8, x_scale = row_quant.run(x, quantize=kind)
    w8, w_scale = module.quantize_weight(weight)
    return lambda: module.run(x8, x_scale, w8, w_scale, bias, out_dtype=x.dtype)
