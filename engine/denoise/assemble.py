"""Settings, module and device -> a denoiser, with a note on every choice. Done once, before the first step.

Nothing falls back silently: a kernel or format that was named and cannot run is an error with all reasons;
what was left to us ("auto") is resolved here and written down. Quantization changes the module in place.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import Cosmos3OmniTransformer, WanTransformer3DModel
from torch import nn

from engine.denoise.guidance import EagerDenoiser
from engine.denoise.sampler import NUM_TRAIN_TIMESTEPS
from engine.errors import ConfigError
from engine.generators.cosmos3 import block as cosmos3_block
from engine.generators.cosmos3.forward import Cosmos3Denoiser, FastCosmos3
from engine.generators.wan.block import OURS, PLAIN, BoundAttention
from engine.generators.wan.forward import FastDenoiser, FastWan, quantized_range
from engine.protocols import Denoiser
from engine.quant import precision_policy, surgery
from engine.quant import weight_cache as saved
from engine.quant.precision_policy import Policy, Range
from engine.quant.recipes import QuantTable, SurgeryError, cosmos3_table, resolve, wan_table
from engine.settings.presets import QUANTIZED_END, DenoiseSettings, parts_of_forward
from kernels import dispatch
from kernels.descriptors import AttentionProblem, KernelError, Target, dtype_name

log = logging.getLogger(__name__)

AUTO = "auto"
FP8_RATE_IS_FULL = ((9, 0), (10, 0), (10, 3))
"""Compute capabilities whose FP8 products with fp32 accumulation run at twice the bf16 rate; on 8.9 and 12.x
they run at half of what INT8 reaches (NVIDIA's architecture papers of Ada and of GeForce Blackwell)."""
MEASURED_AS = {"fa3_fp8": "fp8", "cudnn_fp8": "fp8", "triton_int8": "int8"}
"""8-bit kernel of attention -> the format of a policy's calibration that stands for it."""
GRAPHED_TOKENS = 10_000
"""Below this many tokens a forward is so short that launching its kernels shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the denoiser will be asked: rows of guidance at a time, tokens of video and of text."""

    batch: int
    tokens: int
    text_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """Where the attention of a model happens."""

    heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device


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
    folder: Path | None = None,
) -> Assembled:
    """`cache` keeps probed kernel choices, `weights` quantized weights; None keeps nothing. `folder`: the
    generator's, where its policy is.

    ConfigError when a part cannot be had.
    """
    if settings.forward == "library":
        if parts := parts_of_forward(settings):
            raise ConfigError(
                f"{', '.join(parts)} cannot be had with the library's forward",
                fix='set denoise.forward = "fast", or use --preset fast',
            )
        return Assembled(denoiser=EagerDenoiser(transformer), notes={"forward": "library"})
    weight, config = transformer.patch_embedding.weight, transformer.config
    site = _Site(
        heads=config.num_attention_heads,
        head_dim=config.attention_head_dim,
        dtype=weight.dtype,
        device=weight.device,
    )
    notes = {"forward": "fast", "element_wise": settings.element_wise}
    policy = _policy(settings.policy, folder, notes)
    table = wan_table(transformer)
    notes["linear"] = _linear(transformer, table, settings.linear, site, weights, policy)
    attention, low = _both_attentions(site, shape, shape.tokens, settings, notes, cache)
    wan = FastWan(
        transformer,
        element_wise=OURS if settings.element_wise == "ours" else PLAIN,
        attention=attention,
        quantized_attention=low,
        cross_attention=_cross_attention(site, shape, notes, cache),
    )
    on_gpu = site.device.type == "cuda"
    if _switched(settings.compile, "compile", notes, on_gpu):
        wan.compile_blocks()
    short = shape.batch * shape.tokens <= GRAPHED_TOKENS
    graphs = _switched(settings.graphs, "graphs", notes, on_gpu and short)
    if graphs and not on_gpu:
        raise ConfigError("graphs is on, but the denoiser is on the CPU", fix="leave graphs off or auto")
    names = [f"{table.blocks}.{index}.attn1" for index in range(len(wan.blocks))]
    ranges = None if low is None else _quantized_ranges(low.name, settings, policy, names, notes)
    _log(notes)
    return Assembled(denoiser=FastDenoiser(wan, quantized_ranges=ranges, graphs=graphs), notes=notes)


def assemble_cosmos3(
    transformer: Cosmos3OmniTransformer,
    settings: DenoiseSettings,
    shape: Shape,
    *,
    fps: float,
    cache: Path | None = None,
    weights: Path | None = None,
) -> Assembled:
    """As `assemble`, for the fast forward of Cosmos3's generation tower; there is no CUDA graph of it."""
    if settings.forward == "library":
        raise ConfigError(
            "Cosmos3 has no denoiser over the library's forward", fix='set denoise.forward = "fast"'
        )
    if settings.graphs == "on":
        raise ConfigError("there is no CUDA graph of Cosmos3", fix="leave graphs off or auto")
    if shape.batch != 1:
        raise ConfigError(
            f"Cosmos3 predicts one branch at a time, not {shape.batch}", fix="run the branches one by one"
        )
    weight, config = transformer.proj_in.weight, transformer.config
    site = _Site(
        heads=config.num_attention_heads, head_dim=config.head_dim, dtype=weight.dtype, device=weight.device
    )
    notes = {"forward": "fast", "element_wise": settings.element_wise}
    notes["linear"] = _linear(transformer, cosmos3_table(transformer), settings.linear, site, weights, None)
    kv_len = shape.tokens + shape.text_tokens
    attention, low = _both_attentions(site, shape, kv_len, settings, notes, cache)
    model = FastCosmos3(
        transformer,
        fps=fps,
        element_wise=cosmos3_block.OURS if settings.element_wise == "ours" else cosmos3_block.PLAIN,
        attention=attention,
        quantized_attention=low,
    )
    if _switched(settings.compile, "compile", notes, site.device.type == "cuda"):
        model.compile_blocks()
    notes["graphs"] = "off"
    levels = None if low is None else _quantized_range(settings, notes)
    _log(notes)
    return Assembled(denoiser=Cosmos3Denoiser(model, quantized_range=levels), notes=notes)


def _log(notes: dict[str, str]) -> None:
    for name, choice in notes.items():
        log.info("denoiser %s: %s", name, choice)


def _both_attentions(
    site: _Site,
    shape: Shape,
    kv_len: int,
    settings: DenoiseSettings,
    notes: dict[str, str],
    cache: Path | None,
) -> tuple[BoundAttention, BoundAttention | None]:
    """(exact, low) attention of the video; ConfigError with all reasons where a named one cannot run."""
    problem = _problem(site, shape, kv_len)
    try:
        exact = _attention(problem, settings.attention, ("exact",), notes, "attention", cache)
        return exact, _quantized_attention(problem, settings, notes, cache)
    except KernelError as error:
        raise _unsupported(error) from error


def _unsupported(error: KernelError) -> ConfigError:
    return ConfigError(str(error), fix="`retake kernels` lists what runs here and why others do not")


def _linear(
    transformer: nn.Module,
    table: QuantTable,
    wanted: str,
    site: _Site,
    folder: Path | None,
    policy: Policy | None,
) -> str:
    """Quantizes where that is the choice, of "auto" what the policy admits; the note of it."""
    format_name = _linear_format(wanted, site.device, site.dtype)
    if format_name == "bf16":
        return format_name
    try:
        follow = policy if wanted == AUTO else None
        kept = () if follow is None else follow.kept_linears(transformer, table, format_name)
        if kept and len(kept) == len(resolve(table, transformer).quantized):
            return f"bf16: the policy admits no layer to {format_name}"
        done = f"{format_name}: {_quantize(transformer, table, format_name, folder, kept)}"
        return done + (f", {len(kept)} kept by the policy" if kept else "")
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


def _quantize(
    transformer: nn.Module, table: QuantTable, format_name: str, folder: Path | None, kept: tuple[str, ...]
) -> str:
    num_inner = len(getattr(transformer, table.blocks)) - table.num_first_kept - table.num_last_kept
    expect = len(table.quantized) * num_inner - len(kept)
    policy = dict.fromkeys(kept, "bf16")
    if folder is None:
        report = surgery.quantize_linears(transformer, table, format_name, expect=expect, policy=policy)
    else:
        report, _ = saved.quantize_or_load(
            transformer, table, format_name, expect=expect, folder=folder, policy=policy
        )
    return f"{len(report.formats)} layers, {report.bytes_before >> 20} to {report.bytes_after >> 20} MiB"


def _policy(wanted: str, folder: Path | None, notes: dict[str, str]) -> Policy | None:
    if wanted == precision_policy.OFF:
        return None
    policy, notes["policy"] = precision_policy.find(folder, wanted)
    if policy is None and folder is not None and (folder / precision_policy.FILE).is_file():
        log.warning("policy of %s %s", folder, notes["policy"])
    return policy


def _quantized_ranges(
    kernel: str,
    settings: DenoiseSettings,
    policy: Policy | None,
    blocks: Sequence[str],
    notes: dict[str, str],
) -> tuple[tuple[Range, ...], ...]:
    """For each block the timesteps of the low attention: the policy's, where no range was given and the
    kernel is one that it was measured for; else one range for all."""
    format_name = MEASURED_AS.get(kernel)
    given = settings.quantized_first is not None or settings.quantized_last is not None
    if policy is None or given or format_name is None:
        return ((_quantized_range(settings, notes),),) * len(blocks)
    ranges = policy.attention_ranges(blocks, format_name)
    share = sum(high - low for block in ranges for low, high in block) / (NUM_TRAIN_TIMESTEPS * len(blocks))
    notes["quantized_attention"] += (
        f", where the policy admits it: {100 * share:.0f} % of blocks and noise levels"
    )
    return ranges


def _quantized_range(settings: DenoiseSettings, notes: dict[str, str]) -> Range:
    first = QUANTIZED_END if settings.quantized_first is None else settings.quantized_first
    last = QUANTIZED_END if settings.quantized_last is None else settings.quantized_last
    notes["quantized_attention"] += f", without {first:g} first and {last:g} last"
    return quantized_range(first, last)


def _problem(site: _Site, shape: Shape, kv_len: int) -> AttentionProblem:
    name = dtype_name(site.dtype)
    assert name is not None, f"dtype {site.dtype}"
    return AttentionProblem(
        batch=shape.batch,
        heads=site.heads,
        q_len=shape.tokens,
        kv_len=kv_len,
        head_dim=site.head_dim,
        dtype=name,
        mask="none",
        target=Target.of(site.device),
    )


def _attention(
    problem: AttentionProblem,
    wanted: tuple[str, ...],
    accuracy: tuple[str, ...],
    notes: dict[str, str],
    note: str,
    cache: Path | None,
) -> BoundAttention:
    choice = dispatch.choose(problem, wanted=wanted, accuracy=accuracy, cache=cache)
    passed_over = "; ".join(f"{name}: {reason}" for name, reason in choice.reasons.items())
    notes[note] = choice.name + (f" ({passed_over})" if passed_over else "")
    kernel = dispatch.load(choice.name)
    # a kernel that takes E4M3 gets it from our fused passes instead of quantizing for itself
    fused = hasattr(kernel, "quantize")
    return BoundAttention(
        name=choice.name,
        run=choice.run,
        quantized=getattr(kernel, "run_quantized", None) if fused else None,
        grouped=getattr(kernel, "GROUPED", False),
    )


def _quantized_attention(
    problem: AttentionProblem,
    settings: DenoiseSettings,
    notes: dict[str, str],
    cache: Path | None,
) -> BoundAttention | None:
    if not settings.quantized_attention:
        notes["quantized_attention"] = "off"
        return None
    automatic = settings.quantized_attention == (AUTO,)
    named, accuracy = ((), ("exact", "8bit")) if automatic else (settings.quantized_attention, ("8bit",))
    found = _attention(problem, named, accuracy, notes, "quantized_attention", cache)
    if automatic and dispatch.load(found.name).ACCURACY == "exact":
        notes["quantized_attention"] = (
            f"none: no 8-bit kernel is faster here than {notes['quantized_attention']}"
        )
        return None
    return found


def _cross_attention(site: _Site, shape: Shape, notes: dict[str, str], cache: Path | None) -> BoundAttention:
    problem = _problem(site, shape, shape.text_tokens)
    try:
        return _attention(problem, (), ("exact",), notes, "cross_attention", cache)
    except KernelError as error:
        raise _unsupported(error) from error


def _switched(wanted: str, name: str, notes: dict[str, str], automatic: bool) -> bool:
    on = automatic if wanted == AUTO else wanted == "on"
    notes[name] = "on" if on else "off"
    return on
