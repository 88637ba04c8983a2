"""What is compared: the library as a user has it today, then our parts, added one at a time.

Each variant builds its own module, since quantization and compilation change one in place. Knows no clock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.perf.subjects import Subject
from engine.denoise.assemble import Shape, assemble
from engine.denoise.guidance import BOTH, COND
from engine.denoise.sampler import PrefixTimestep
from engine.presets import DenoiseSettings
from kernels.attention import fa3

Forward = Callable[[], Tensor]

FAST = DenoiseSettings(forward="fast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A bar of the waterfall. `backend` names the attention of a stock variant, `settings` make ours."""

    name: str
    adds: str
    backend: str = ""  # flash | cudnn | fa3
    compiled: bool = False
    settings: DenoiseSettings | None = None
    cumulative: bool = True  # on top of the bar before, in the waterfall
    against: str = ""  # of one that is not: the bar of which one part is exchanged

    @property
    def stock(self) -> bool:
        return self.settings is None


STOCK = (
    Variant(name="diffusers eager", adds="the library, flash attention of torch", backend="flash"),
    Variant(name="diffusers eager, cuDNN", adds="cuDNN attention", backend="cudnn"),
    Variant(name="diffusers compiled, cuDNN", adds="torch.compile", backend="cudnn", compiled=True),
    Variant(name="diffusers compiled, FA3", adds="FlashAttention-3 processor", backend="fa3", compiled=True),
)
_LOW = replace(FAST, compile="on", linear="fp8", low_attention=("fa3_fp8",), low_first=0.0, low_last=0.0)
WHOLE = "ours FP8 linear, FP8 attention"
OURS = (
    Variant(
        name="ours bf16",
        adds="fast forward: shared QKV, fused kernels, text keys once",
        settings=replace(FAST, compile="on", attention=("fa3",)),
    ),
    Variant(
        name="ours FP8 linear",
        adds="FP8 products, quantized in the pass before",
        settings=replace(FAST, compile="on", attention=("fa3",), linear="fp8"),
    ),
    Variant(
        name=WHOLE,
        adds="FP8 attention, quantized in norm and rotary pass",
        settings=replace(_LOW, attention=("fa3",)),
    ),
    Variant(
        name="ours + CUDA graph",
        adds="one graph for the forward",
        settings=replace(_LOW, attention=("fa3",), graphs="on"),
    ),
)
ALONE = (
    Variant(
        name="compiler's fusion instead of our kernels",
        adds="the same 8-bit forward with plain torch between the products, fused by Inductor",
        settings=replace(_LOW, attention=("fa3",), element_wise="compiler"),
        cumulative=False,
        against=WHOLE,
    ),
    Variant(
        name="ours without torch.compile",
        adds="our kernels launched one by one",
        settings=replace(_LOW, attention=("fa3",), compile="off"),
        cumulative=False,
        against=WHOLE,
    ),
    Variant(
        name="ours INT8 linear",
        adds="INT8 products by our Triton kernel instead of FP8",
        settings=replace(_LOW, attention=("fa3",), linear="int8"),
        cumulative=False,
        against=WHOLE,
    ),
    Variant(
        name="ours cuDNN FP8 attention",
        adds="cuDNN's FP8 attention instead of FA3's",
        settings=replace(_LOW, attention=("fa3",), low_attention=("cudnn_fp8",)),
        cumulative=False,
        against=WHOLE,
    ),
    Variant(
        name="ours Triton INT8 attention",
        adds="our INT8 kernel instead of FA3's FP8",
        settings=replace(_LOW, attention=("fa3",), low_attention=("triton_int8",)),
        cumulative=False,
        against=WHOLE,
    ),
)
EVERYWHERE = (
    Variant(name="diffusers eager", adds="the library, torch's own choice of attention", backend="native"),
    Variant(
        name="ours bf16",
        adds="fast forward",
        settings=replace(FAST, compile="auto"),
    ),
    Variant(
        name="ours 8-bit linear",
        adds="8-bit products",
        settings=replace(FAST, compile="auto", linear="auto"),
    ),
    Variant(
        name="ours 8-bit linear and attention",
        adds="8-bit attention",
        settings=replace(
            FAST, compile="auto", linear="auto", low_attention=("auto",), low_first=0.0, low_last=0.0
        ),
    ),
)
"""For any GPU, and a CPU: kernels by what the device supports."""


class _Fa3Processor(WanAttnProcessor):
    """The library's processor with FlashAttention-3 called directly: what a careful user would write."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        assert attention_mask is None, "the processor knows no mask"
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, attn.to_v(source)))
        if rotary_emb is not None:
            q, k = (_rotate(x, *rotary_emb) for x in (q, k))
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        out = fa3.run(*heads_first, scale=q.shape[-1] ** -0.5).transpose(1, 2)
        return attn.to_out[1](attn.to_out[0](out.flatten(2)))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2).type_as(x)


def build(
    variant: Variant, transformer: WanTransformer3DModel, subject: Subject, cache: Path | None
) -> tuple[Forward, Mapping[str, str]]:
    """(one forward of `variant` on the subject's inputs, what was chosen). Weights are shared where equal."""
    device = transformer.patch_embedding.weight.device
    latents, timestep, text = subject.inputs(device)
    branch = BOTH if subject.batch == 2 else COND
    if variant.settings is None:
        return _stock(variant, transformer, latents, timestep, text), {}
    module = copy.deepcopy(transformer) if variant.settings.linear != "bf16" else transformer
    shape = Shape(batch=subject.batch, tokens=subject.num_tokens, text_tokens=text.shape[1])
    made = assemble(module, variant.settings, shape, cache=cache)
    prepared = made.denoiser.prepare(text)
    return lambda: made.denoiser(latents, timestep, prepared, branch=branch), made.notes


def _stock(
    variant: Variant,
    transformer: WanTransformer3DModel,
    latents: Tensor,
    timestep: PrefixTimestep,
    text: Tensor,
) -> Forward:
    # A shallow copy of the tree of modules over the same parameters: processors and compilation differ.
    module = copy.deepcopy(
        transformer, {id(p): p for p in (*transformer.parameters(), *transformer.buffers())}
    )
    if variant.backend == "fa3":
        module.set_attn_processor(_Fa3Processor())
    if variant.compiled:
        module.compile_repeated_blocks(fullgraph=True, dynamic=False)
    times = timestep.per_token(latents.device) if timestep.prefix_frames else _one(timestep, latents)
    dtype = module.patch_embedding.weight.dtype

    def forward() -> Tensor:
        velocity: Tensor = module(
            hidden_states=latents.to(dtype).expand(len(text), -1, -1, -1, -1),
            timestep=times.expand(len(text), *times.shape[1:]),
            encoder_hidden_states=text,
            return_dict=False,
        )[0]
        return velocity.float()

    if variant.backend not in BACKENDS:
        return forward

    def with_backend() -> Tensor:
        with sdpa_kernel(BACKENDS[variant.backend]):
            return forward()

    return with_backend


def _one(timestep: PrefixTimestep, latents: Tensor) -> Tensor:
    """One timestep for all tokens: what the library is given where there is no clean prefix."""
    return torch.full((1,), timestep.value, device=latents.device)


BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
