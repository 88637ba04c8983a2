"""The library's autoencoder as the fast coders find it: its modules by name, and what must hold of them.

Everything that a fast forward leaves out is checked to be nothing before anything is replaced.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from torch import Tensor, nn

from engine.quant.recipes import SurgeryError
from kernels.descriptors import Target
from kernels.fused import channel_norm

LIBRARY = 'set denoise.vae = "library"'


def target_of(vae: AutoencoderKLWan) -> Target | None:
    return Target.of(vae.device) if vae.device.type == "cuda" else None


def named(vae: AutoencoderKLWan, kind: type[nn.Module]) -> dict[str, Any]:
    return {name: module for name, module in vae.named_modules() if isinstance(module, kind)}


def check_counts(vae: AutoencoderKLWan, num_blocks: int, num_upsamplers: int, num_attentions: int) -> None:
    config = vae.config
    levels, per_level = len(config.dim_mult), config.num_res_blocks
    found = {"residual": num_blocks, "upsampling": num_upsamplers, "attention": num_attentions}
    # each half has a middle of two blocks and one attention; the decoder one block more on each level
    expected = {"residual": 4 + levels * (2 * per_level + 1), "upsampling": levels - 1, "attention": 2}
    wrong = [
        f"{found[kind]} {kind} blocks instead of {expected[kind]}"
        for kind in found
        if found[kind] != expected[kind]
    ]
    if wrong:
        raise SurgeryError(f"the autoencoder has {', '.join(wrong)}", fix=LIBRARY)


def check_modules(vae: AutoencoderKLWan, blocks: dict[str, Any]) -> None:
    """Everything that the fast forwards leave out must be nothing."""
    activated = [*blocks.items(), ("encoder", vae.encoder), ("decoder", vae.decoder)]
    for name, module in activated:
        if not isinstance(module.nonlinearity, nn.SiLU):
            raise SurgeryError(f"{name} has the activation {module.nonlinearity}, not SiLU", fix=LIBRARY)
    for name, block in blocks.items():
        if block.dropout.p != 0:
            raise SurgeryError(f"{name} has dropout {block.dropout.p}, not 0", fix=LIBRARY)
    target = target_of(vae)
    for name, norm in named(vae, WanRMS_norm).items():
        if isinstance(norm.bias, Tensor) or not norm.channel_first:
            raise SurgeryError(f"{name} has a bias, or its channels last", fix=LIBRARY)
        reason = target and channel_norm.supports(target, channels=norm.gamma.numel())
        if reason is not None:
            raise SurgeryError(f"{name}: {reason}", fix=LIBRARY)
