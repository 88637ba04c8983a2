"""The kernels of one forward, each timed alone at its shape: what a forward without any gap would take.

Their sum over the forward's time says whether launches and fusion are done; it knows no module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.perf.denoisers.base import Calls
from engine.settings.presets import DenoiseSettings
from kernels import dispatch, timing
from kernels.fused import (
    head_norm_rope,
    head_quant,
    qk_norm_rope,
    residual_norm,
    rms_norm,
    row_quant,
    swiglu,
)
from kernels.fused.formats import FP8
from kernels.linear import fp8_rowwise, int8

EPS = 1e-6
REPEATS = 10


def times_ms(calls: Calls) -> dict[str, float]:
    """Kernel -> its median time times the number of its calls in one forward."""
    return {
        name: count * timing.summary(timing.time_gpu(call, repeats=REPEATS, warmup=3)).median
        for name, (count, call) in calls.items()
    }


def wan_calls(
    settings: DenoiseSettings,
    *,
    batch: int,
    tokens: int,
    text_tokens: int,
    layers: int,
    heads: int,
    width: int,
    inner: int,
) -> Calls:
    """Of a Wan transformer, GEMMs in the set format."""
    size, kind = width // heads, _format(settings)
    h = torch.randn(batch, tokens, width, device="cuda", dtype=torch.bfloat16)
    rows = torch.randn(1, 1, width, device="cuda")
    weight = torch.rand(width, device="cuda") + 0.5
    rotary = torch.randn(1, tokens, 1, size, device="cuda")
    wide = torch.randn(batch, tokens, inner, device="cuda", dtype=torch.bfloat16)
    text = torch.randn(batch, heads, text_tokens, size, device="cuda", dtype=torch.bfloat16)
    q = h.unflatten(2, (heads, size)).transpose(1, 2)
    norm: dict[str, Any] = {"eps": EPS, "quantize": kind}
    eight_bit = bool(settings.quantized_attention)
    scale = qk_norm_rope.static_scale(weight, heads) if eight_bit else None
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "gate, residual, norm, modulation": (
            2 * layers, lambda: residual_norm.run(h, h, rows, scale=rows, shift=rows, **norm)
        ),
        "residual, norm": (layers, lambda: residual_norm.run(h, h, weight=weight, bias=weight, **norm)),
        "norm and rotary of q, k": (
            2 * layers,
            lambda: qk_norm_rope.run(h, weight, rotary, rotary, heads=heads, eps=EPS, scale=scale),
        ),
        "norm of text queries": (layers, lambda: qk_norm_rope.run(h, weight, heads=heads, eps=EPS)),
        "self-attention": (layers, _attention(q, q, settings)),
        "cross-attention": (
            layers, lambda: dispatch.load("sdpa_cudnn").run(q, text, text, scale=size**-0.5)
        ),
        "q, k, v": (layers, _gemm(h, 3 * width, kind)),
        "outputs and text queries": (3 * layers, _gemm(h, width, kind)),
        "up": (layers, _gemm(h, inner, kind)),
        "down": (layers, _gemm(wide, width, kind)),
    }  # fmt: skip
    if kind is not None:
        calls["quantize outputs"] = (2 * layers, lambda: row_quant.run(h, quantize=kind))
        calls["GELU, quantize"] = (
            layers,
            lambda: row_quant.run(wide, quantize=kind, activation="gelu_tanh"),
        )
    if eight_bit:
        calls["quantize v"] = (layers, lambda: head_quant.run(h.unflatten(2, (heads, size))))
    return calls


def cosmos3_calls(
    settings: DenoiseSettings,
    *,
    tokens: int,
    text_tokens: int,
    layers: int,
    heads: int,
    kv_heads: int,
    size: int,
    width: int,
    inner: int,
) -> Calls:
    """Of the generation tower of Cosmos3 behind cached text, GEMMs in the set format."""
    kind, eight_bit = _format(settings), bool(settings.quantized_attention)
    options: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
    h = torch.randn(1, tokens, width, **options)
    weight, norm = torch.rand(width, device="cuda") + 0.5, torch.rand(size, device="cuda") + 0.5
    angles = torch.randn(tokens, size, device="cuda")
    qkv = torch.randn(1, tokens, (heads + 2 * kv_heads) * size, **options)
    q, k, v = qkv.split([heads * size, kv_heads * size, kv_heads * size], dim=-1)
    wide = torch.randn(1, tokens, 2 * inner, **options)
    seen = torch.randn(1, text_tokens + tokens, kv_heads, size, **options)
    scale = head_norm_rope.static_scale(norm) if eight_bit else None
    before = seen[:, :text_tokens].to(FP8.dtype if eight_bit else h.dtype)
    rope: dict[str, Any] = {"eps": EPS, "scale": scale}
    heads_first = q.unflatten(2, (heads, size)).transpose(1, 2)
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "residual, norm": (2 * layers, lambda: rms_norm.run(h, h, weight, eps=EPS, quantize=kind)),
        "norm and rotary of q": (
            layers, lambda: head_norm_rope.run(q, norm, angles, angles, heads=heads, **rope)
        ),
        "norm and rotary of k": (
            layers,
            lambda: head_norm_rope.run(k, norm, angles, angles, heads=kv_heads, before=before, **rope),
        ),
        "text before v": (
            layers, lambda: torch.cat([seen[:, :text_tokens], v.unflatten(2, (kv_heads, size))], dim=1)
        ),
        "attention": (layers, _attention(heads_first, seen.transpose(1, 2), settings)),
        "q, k, v": (layers, _gemm(h, qkv.shape[-1], kind)),
        "output": (layers, _gemm(q.contiguous(), width, kind)),
        "gate and up": (layers, _gemm(h, 2 * inner, kind)),
        "SwiGLU": (layers, lambda: swiglu.run(wide, quantize=kind)),
        "down": (layers, _gemm(wide[..., :inner].contiguous(), width, kind)),
    }  # fmt: skip
    if kind is not None:
        calls["quantize output"] = (layers, lambda: row_quant.run(q, quantize=kind))
    if eight_bit:
        calls["quantize v"] = (layers, lambda: head_quant.run(seen))
    return calls


def _format(settings: DenoiseSettings) -> str | None:
    return settings.linear if settings.linear in ("fp8", "int8") else None


def _attention(q: Tensor, k: Tensor, settings: DenoiseSettings) -> Callable[[], object]:
    """q [B, A, S, D], k [B, A or fewer, N, D], which is v too."""
    names = settings.quantized_attention or settings.attention or ("sdpa_cudnn",)
    module, softmax_scale = dispatch.load(names[0]), q.shape[-1] ** -0.5
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and not getattr(module, "GROUPED", False):
        k, groups = k.repeat_interleave(groups, dim=1), 1
    quantized = getattr(module, "run_quantized", None) if names[0].endswith("_fp8") else None
    if quantized is None:
        return lambda: module.run(q, k, k, scale=softmax_scale)
    (q8, q_scale), (k8, k_scale) = (head_quant.run(x.transpose(1, 2)) for x in (q, k))
    q8, k8 = q8.transpose(1, 2), k8.transpose(1, 2)
    q_scale = q_scale[:, ::groups].contiguous()
    return lambda: quantized(q8, k8, k8, q_scale, k_scale, k_scale, scale=softmax_scale)


def _gemm(x: Tensor, out_features: int, kind: str | None) -> Callable[[], object]:
    weight = torch.randn(out_features, x.shape[-1], device=x.device, dtype=x.dtype) / x.shape[-1] ** 0.5
    bias = torch.randn(out_features, device=x.device, dtype=x.dtype)
    if kind is None:
        return lambda: torch.nn.functional.linear(x, weight, bias)
    module = fp8_rowwise if kind == "fp8" else int8
    x8, x_scale = row_quant.run(x, quantize=kind)
    w8, w_scale = module.quantize_weight(weight)
    return lambda: module.run(x8, x_scale, w8, w_scale, bias, out_dtype=x.dtype)
