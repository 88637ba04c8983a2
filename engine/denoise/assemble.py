"""A family's transformer, settings and shape -> a denoiser, with a note on every choice.

Done once, before the first step. Knows no family: each says in its own room what its forward needs. Nothing
falls back silently: a kernel or format that was named and cannot run is an error with all reasons; what was
left to us ("auto") is resolved here and written down. Quantization changes the transformer in place.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.autoencoder.fp8_choice import use_vae
from engine.denoise.family import AttentionSite, Family, Forward, Parts, Shape
from engine.denoise.layers import BoundAttention, bind, compile_blocks, quantized_range
from engine.denoise.sampler import NUM_TRAIN_TIMESTEPS
from engine.denoise.step_cache import note_of
from engine.errors import ConfigError
from engine.machine.phases import phase
from engine.protocols import Denoiser
from engine.quant import precision_policy, surgery
from engine.quant.attention_error import SOL, SPARSE
from engine.quant.precision_policy import BF16, Policy, Range
from engine.quant.recipes import QuantRecipe, SurgeryError, resolve
from engine.settings.presets import QUANTIZED_END, DenoiseSettings, parts_of_forward
from engine.words import counted
from kernels import dispatch
from kernels.descriptors import AttentionProblem, KernelError, Target, dtype_name

log = logging.getLogger(__name__)

AUTO = "auto"
FP8_RATE_IS_FULL = ((9, 0), (10, 0), (10, 3))
"""Compute capabilities whose FP8 GEMMs with fp32 accumulation run at twice the bf16 rate; on 8.9 and 12.x
they run at half of what INT8 reaches (NVIDIA's architecture papers of Ada and of GeForce Blackwell)."""
MEASURED_AS = {
    "fa3_fp8": "fp8",
    "cudnn_fp8": "fp8",
    "triton_int8": "int8",
    "comfy_int8": "int8",
    "triton_prefix_sparse": SPARSE,
    "fa3_prefix_sparse": SPARSE,
    "comfy_sol": SOL,
}
"""8-bit or sparse kernel of attention -> the format of a policy's calibration that stands for it."""
GRAPHED_TOKENS = 10_000
"""Below this many tokens a forward is so short that launching its kernels shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A denoiser and what was chosen, for the log and the manifest."""

    denoiser: Denoiser
    notes: dict[str, str]
    module: nn.Module | None = None
    """That holds its weights; None: an exported form has its own."""
    num_bytes: int | None = None
    """Of weights that are not the module's: an exported form has its own."""
    scratch_bytes: int | None = None
    """That it holds for its steps, where it does not allocate as it works."""


def assemble(
    family: Family[Forward],
    settings: DenoiseSettings,
    shape: Shape,
    *,
    cache: Path | None = None,
    folder: Path | None = None,
) -> Assembled:
    """`cache` keeps probed kernel choices; None keeps nothing. `folder`: the generator's,
    where its policy is.

    Quantized weights are not kept: a GPU makes them in less time than a disk reads them, and to know that
    kept ones are of these weights, all of these would have to be read and hashed.

    Raises ConfigError for settings that this family, this device or these weights do not allow.
    """
    family.refuse(settings, shape)
    if settings.forward == "library":
        if parts := parts_of_forward(settings):
            raise ConfigError(
                f"{', '.join(parts)} cannot be had with the library's forward",
                fix='set denoise.forward = "fast", or use --preset fast',
            )
        notes = {"forward": "library"}
        return Assembled(denoiser=family.library_denoiser(), notes=notes, module=family.transformer)
    recipe, site = family.recipe, family.site
    notes = {"forward": "fast", "element_wise": settings.element_wise}
    policy = _policy(settings.policy, folder, notes) if family.calibrated_attentions else None
    capability = Target.of(site.device).capability
    with phase("linear layers"):
        notes["linear"] = _linear(family.transformer, recipe, settings.linear, capability, site.dtype, policy)
    with phase("attention kernels"):
        chosen = _parts(site, shape, settings, notes, cache)
    forward = family.fast_forward(chosen)
    on_gpu = site.device.type == "cuda"
    if _switched(settings.compile, "compile", notes, on_gpu):
        compile_blocks(forward.blocks)
    short = shape.batch * shape.tokens <= GRAPHED_TOKENS
    graphs = _switched(settings.graphs, "graphs", notes, on_gpu and short and family.has_graphs)
    if graphs and not on_gpu:
        raise ConfigError("graphs is on, but the denoiser is on the CPU", fix="leave graphs off or auto")
    ranges = None
    if chosen.quantized_attention is not None:
        kernel, names = chosen.quantized_attention.name, family.calibrated_attentions
        ranges = _policy_ranges(kernel, settings, policy, names, notes)
        if ranges is None:
            ranges = ((_quantized_range(settings, notes),),) * len(forward.blocks)
    for name, choice in notes.items():
        log.info("denoiser %s: %s", name, choice)
    assert isinstance(forward, nn.Module)
    return Assembled(denoiser=family.denoiser(forward, ranges, graphs=graphs), notes=notes, module=forward)


def assemble_around(parts: Any, settings: DenoiseSettings, extrapolated: frozenset[int]) -> dict[str, str]:
    """Makes the autoencoder of a family's `parts` what the settings want; notes on it and on what else they
    choose around the denoiser, whose `extrapolated` steps are left out. Raises as `use_vae`.
    """
    notes = {}
    if settings.vae_chunk:
        notes["vae_chunk"] = f"{counted(settings.vae_chunk, 'latent frame')} a pass"
    if settings.step_cache:
        notes["step_cache"] = note_of(settings, extrapolated)
    if parts.streamed:
        notes["streamed"] = ", ".join(sorted(parts.streamed))
    if settings.vae != "library":
        notes["vae"] = use_vae(parts.vae, settings.vae, parts.folder)
    return notes


def quantize_outline(
    family: Family[Forward],
    settings: DenoiseSettings,
    device: torch.device,
    capability: tuple[int, int] | None,
    folder: Path | None,
) -> None:
    """The linear layers of a transformer without values as `assemble` would leave them on `device`, so that
    their bytes can be counted. `capability`: of a GPU that is not at hand; None: that of `device`."""
    if settings.forward == "library":
        return
    if capability is None:
        capability = Target.of(device).capability
    policy = _policy(settings.policy, folder, {}) if family.calibrated_attentions else None
    with phase("linear layers"):
        _linear(family.transformer, family.recipe, settings.linear, capability, family.site.dtype, policy)


def _parts(
    site: AttentionSite, shape: Shape, settings: DenoiseSettings, notes: dict[str, str], cache: Path | None
) -> Parts:
    """ConfigError with all reasons where a named attention cannot run."""
    seen = shape.context_tokens or shape.tokens
    problem = _problem(site, shape, seen + (shape.text_tokens if site.joins_text else 0))
    cross = None
    try:
        exact = _attention(problem, settings.attention, ("exact",), notes, "attention", cache)
        if exact.takes_prefix:
            raise KernelError(f"{exact.name} is for denoise.quantized_attention, not for denoise.attention")
        text = shape.text_tokens if site.joins_text and shape.prefix_tokens else 0
        behind_prefix = replace(problem, prefix=text + shape.prefix_tokens)
        quantized = _quantized_attention(behind_prefix, settings, notes, cache)
        if not site.joins_text:
            of_text = _problem(site, shape, shape.text_tokens)
            cross = _attention(of_text, (), ("exact",), notes, "cross_attention", cache)
    except KernelError as error:
        fix = "`retake kernels` lists what runs here and why others do not"
        raise ConfigError(str(error), fix=fix) from error
    return Parts(
        element_wise=bind("run" if settings.element_wise == "ours" else "plain"),
        attention=exact,
        quantized_attention=quantized,
        cross_attention=cross,
    )


def _linear(
    transformer: nn.Module,
    recipe: QuantRecipe,
    wanted: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    policy: Policy | None,
) -> str:
    """Quantizes the linear layers if the format that is wanted, or that "auto" becomes, is an 8-bit one.

    With "auto" only the layers that the policy admits. Returns the note.
    """
    format_name = _linear_format(wanted, capability, dtype)
    if format_name == "bf16":
        return format_name
    try:
        follow = policy if wanted == AUTO else None
        others = {} if follow is None else follow.other_linears(transformer, recipe, format_name)
        if others and list(others.values()).count(BF16) == len(resolve(recipe, transformer).quantized):
            return f"bf16: the policy admits no layer to {format_name}"
        done = f"{format_name}: {_quantize(transformer, recipe, format_name, others)}"
        return done + _as_others(others)
    except SurgeryError as error:  # the module is unchanged: too few blocks, or sizes no kernel takes
        if wanted != AUTO:
            raise
        return f"bf16: {error.problem}"


def _linear_format(wanted: str, capability: tuple[int, int] | None, dtype: torch.dtype) -> str:
    if wanted != AUTO:
        return wanted
    if capability is None or capability < (8, 0) or dtype not in (torch.bfloat16, torch.float16):
        return "bf16"
    return "fp8" if capability in FP8_RATE_IS_FULL else "int8"


def _quantize(
    transformer: nn.Module,
    recipe: QuantRecipe,
    format_name: str,
    policy: dict[str, str],
) -> str:
    num_inner = len(getattr(transformer, recipe.blocks)) - recipe.num_first_kept - recipe.num_last_kept
    expect = len(recipe.quantized) * num_inner - list(policy.values()).count(BF16)
    report = surgery.quantize_linears(transformer, recipe, format_name, expect=expect, policy=policy)
    before, after = report.bytes_before >> 20, report.bytes_after >> 20
    return f"{counted(len(report.formats), 'layer')}, {before} to {after} MiB"


def _as_others(others: dict[str, str]) -> str:
    """What the policy has made of single layers, for the note; those of another 8-bit format by name."""
    kept = list(others.values()).count(BF16)
    named: dict[str, list[str]] = {}
    for name, format_name in others.items():
        if format_name != BF16:
            named.setdefault(format_name, []).append(name)
    listed = "".join(f"; {format_name} by the policy: {', '.join(n)}" for format_name, n in named.items())
    return (f", {kept} kept by the policy" if kept else "") + listed


def _policy(wanted: str, folder: Path | None, notes: dict[str, str]) -> Policy | None:
    if wanted == precision_policy.OFF:
        return None
    policy, notes["policy"] = precision_policy.find(folder, wanted)
    if policy is None and folder is not None and (folder / precision_policy.FILE).is_file():
        log.warning("policy of %s %s", folder, notes["policy"])
    return policy


def _policy_ranges(
    kernel: str,
    settings: DenoiseSettings,
    policy: Policy | None,
    attentions: Sequence[str],
    notes: dict[str, str],
) -> tuple[tuple[Range, ...], ...] | None:
    """For each block the timesteps at which the policy admits quantized attention; None where a range was
    given, or the kernel is not one that the policy was measured for: then one range is for all blocks."""
    format_name = MEASURED_AS.get(kernel)
    given = settings.quantized_first is not None or settings.quantized_last is not None
    if policy is None or given or format_name is None:
        return None
    ranges = policy.attention_ranges(attentions, format_name)
    share = sum(high - low for block in ranges for low, high in block) / (NUM_TRAIN_TIMESTEPS * len(ranges))
    notes["quantized_attention"] += (
        f", where the policy admits it: {100 * share:.0f} % of blocks and noise levels"
    )
    return ranges


def _quantized_range(settings: DenoiseSettings, notes: dict[str, str]) -> Range:
    first = QUANTIZED_END if settings.quantized_first is None else settings.quantized_first
    last = QUANTIZED_END if settings.quantized_last is None else settings.quantized_last
    notes["quantized_attention"] += f", without {first:g} first and {last:g} last"
    return quantized_range(first, last)


def _problem(site: AttentionSite, shape: Shape, kv_len: int) -> AttentionProblem:
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
        takes_prefix=getattr(kernel, "TAKES_PREFIX", False),
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
    if found.takes_prefix and not problem.prefix:
        raise KernelError(f"{found.name} needs a prefix, of which {problem} has none")
    if automatic and dispatch.load(found.name).ACCURACY == "exact":
        notes["quantized_attention"] = (
            f"none: no 8-bit kernel is faster here than {notes['quantized_attention']}"
        )
        return None
    return found


def _switched(wanted: str, name: str, notes: dict[str, str], automatic: bool) -> bool:
    on = automatic if wanted == AUTO else wanted == "on"
    notes[name] = "on" if on else "off"
    return on
