"""Settings, module and device -> a denoiser, with a note on every choice. Done once, before the first step.

Nothing falls back silently: a kernel or format that was named and cannot run is an error with all reasons;
what was left to us ("auto") is resolved here and written down. Quantization changes the module in place.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from engine.denoise.guidance import EagerDenoiser
from engine.denoise.wan_block import OURS, PLAIN, BoundAttention
from engine.denoise.wan_forward import FastDenoiser, FastWan, low_range
from engine.errors import ConfigError
from engine.presets import DenoiseSettings, parts_of_forward
from engine.protocols import Denoiser
from engine.quant import saved, surgery
from engine.quant.tables import SurgeryError, wan_table
from kernels import dispatch
from kernels.problem import AttentionProblem, KernelError, Target, dtype_name

log = logging.getLogger(__name__)

AUTO = "auto"
FP8_RATE_IS_FULL = ((9, 0), (10, 0), (10, 3))
"""Compute capabilities whose FP8 products with fp32 accumulation run at twice the bf16 rate; on 8.9 and 12.x
they run at half of what INT8 reaches (NVIDIA's architecture papers of Ada and of GeForce Blackwell)."""
GRAPHED_TOKENS = 10_000
"""Below this many tokens a forward is so short that launching its kernels shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the denoiser will be asked: rows of guidance at a time, tokens of video and of text."""

    batch: int
    tokens: int
    text_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A denoiser and what was chosen, for the log and the manifest."""

    denoiser: Denoiser
    notes: dict[str, str]
    num_bytes: int | None = None
    """Of weights that are not the module's: an exported form has its own."""


def assemble(
    transformer: WanTransformer3DModel,
    settings: DenoiseSettings,
    shape: Shape,
    *,
    cache: Path | None = None,
    weights: Path | None = None,
) -> Assembled:
    """`cache` keeps probed kernel choices, `weights` quantized weights; None keeps nothing.

    ConfigError when a part cannot be had.
    """
    if settings.forward == "library":
        if parts := parts_of_forward(settings):
            raise ConfigError(
                f"{', '.join(parts)} cannot be had with the library's forward",
                fix='set denoise.forward = "fast", or use --preset fast',
            )
        return Assembled(denoiser=EagerDenoiser(transformer), notes={"forward": "library"})
    device = transformer.patch_embedding.weight.device
    notes = {"forward": "fast", "element_wise": settings.element_wise}
    notes["linear"] = _linear(transformer, settings.linear, device, weights)
    try:
        attention = _attention(transformer, shape, settings.attention, ("exact",), notes, "attention", cache)
        low = _low_attention(transformer, shape, settings, notes, cache)
        cross = _cross_attention(transformer, shape, notes, cache)
    except KernelError as error:
        raise ConfigError(
            str(error), fix="`retake kernels` lists what runs here and why others do not"
        ) from error
    wan = FastWan(
        transformer,
        element_wise=OURS if settings.element_wise == "ours" else PLAIN,
        attention=attention,
        low_attention=low,
        cross_attention=cross,
    )
    if _switched(settings.compile, device, "compile", notes, device.type == "cuda"):
        wan.compile_blocks()
    short = shape.batch * shape.tokens <= GRAPHED_TOKENS
    graphs = _switched(settings.graphs, device, "graphs", notes, device.type == "cuda" and short)
    if graphs and device.type != "cuda":
        raise ConfigError("graphs is on, but the denoiser is on the CPU", fix="leave graphs off or auto")
    levels = low_range(settings.low_first, settings.low_last) if low is not None else None
    for name, choice in notes.items():
        log.info("denoiser %s: %s", name, choice)
    return Assembled(denoiser=FastDenoiser(wan, low_range=levels, graphs=graphs), notes=notes)


def _linear(
    transformer: WanTransformer3DModel, wanted: str, device: torch.device, folder: Path | None
) -> str:
    """Quantizes where that is the choice; the note of it."""
    format_name = _linear_format(wanted, device, transformer.dtype)
    if format_name == "bf16":
        return format_name
    try:
        return f"{format_name}: {_quantize(transformer, format_name, folder)}"
    except SurgeryError as error:  # the module is unchanged: too few blocks, or sizes no kernel takes
        if wanted != AUTO:
            raise
        return f"bf16: {error.problem}"


def _linear_format(wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    if wanted != AUTO:
        return wanted
    capability = Target.of(device).capability
    if capability is None or capability < (8, 0) or dtype not in (torch.bfloat16, torch.float16):
        return "bf16"
    return "fp8" if capability in FP8_RATE_IS_FULL else "int8"


def _quantize(transformer: WanTransformer3DModel, format_name: str, folder: Path | None) -> str:
    table = wan_table(transformer)
    per_block = len(table.quantized)
    inner = len(transformer.blocks) - table.num_first_kept - table.num_last_kept
    expect = per_block * inner
    if folder is None:
        report = surgery.quantize_linears(transformer, table, format_name, expect=expect)
    else:
        report, _ = saved.quantize_or_load(transformer, table, format_name, expect=expect, folder=folder)
    return f"{len(report.formats)} layers, {report.bytes_before >> 20} to {report.bytes_after >> 20} MiB"


def _problem(transformer: WanTransformer3DModel, shape: Shape, kv_len: int) -> AttentionProblem:
    config = transformer.config
    name = dtype_name(transformer.patch_embedding.weight.dtype)
    assert name is not None, f"dtype {transformer.dtype}"
    return AttentionProblem(
        batch=shape.batch,
        heads=config.num_attention_heads,
        q_len=shape.tokens,
        kv_len=kv_len,
        head_dim=config.attention_head_dim,
        dtype=name,
        mask="none",
        target=Target.of(transformer.patch_embedding.weight.device),
    )


def _attention(
    transformer: WanTransformer3DModel,
    shape: Shape,
    wanted: tuple[str, ...],
    accuracy: tuple[str, ...],
    notes: dict[str, str],
    note: str,
    cache: Path | None,
    kv_len: int | None = None,
) -> BoundAttention:
    problem = _problem(transformer, shape, kv_len or shape.tokens)
    choice = dispatch.choose(problem, wanted=wanted, accuracy=accuracy, cache=cache)
    passed_over = "; ".join(f"{name}: {reason}" for name, reason in choice.reasons.items())
    notes[note] = choice.name + (f" ({passed_over})" if passed_over else "")
    # a kernel that takes E4M3 gets it from our fused passes instead of quantizing for itself
    fused = choice.name.endswith("_fp8")
    quantized = getattr(dispatch.load(choice.name), "run_quantized", None) if fused else None
    return BoundAttention(name=choice.name, run=choice.run, quantized=quantized)


def _low_attention(
    transformer: WanTransformer3DModel,
    shape: Shape,
    settings: DenoiseSettings,
    notes: dict[str, str],
    cache: Path | None,
) -> BoundAttention | None:
    if not settings.low_attention:
        notes["low_attention"] = "off"
        return None
    named = () if settings.low_attention == (AUTO,) else settings.low_attention
    try:
        found = _attention(transformer, shape, named, ("8bit",), notes, "low_attention", cache)
    except KernelError as error:
        if named:
            raise
        notes["low_attention"] = f"none here: {error}"
        return None
    notes["low_attention"] += f", without {settings.low_first:g} first and {settings.low_last:g} last"
    return found


def _cross_attention(
    transformer: WanTransformer3DModel, shape: Shape, notes: dict[str, str], cache: Path | None
) -> BoundAttention:
    return _attention(
        transformer, shape, (), ("exact",), notes, "cross_attention", cache, kv_len=shape.text_tokens
    )


def _switched(wanted: str, device: torch.device, name: str, notes: dict[str, str], automatic: bool) -> bool:
    on = automatic if wanted == AUTO else wanted == "on"
    notes[name] = "on" if on else "off"
    return on
