"""The ways in which latents are decoded: modules that were changed once, and how they are called."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from engine.autoencoder.fp8_conv import fp8_convolutions
from engine.autoencoder.vae import decode_pixels, use_channels_last
from engine.autoencoder.vae_fused import use_fused_vae

LIBRARY = "library"
BEST = "fused, merged and paired, chunks of 4"
FP8_ALL = "fused, FP8 in all"
FINEST = frozenset({96, 32})
"""Channels whose columns are paired: 96 of Wan2.1's decoder, 32 of the one for a dry run."""
CHUNK = 4
"""Latent frames a pass, of all ways whose names say nothing else."""

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """`make` changes a copy of the module and returns the decoder; `fp8`: convolutions that it rounds."""

    name: str
    make: Callable[[], Decode]
    fp8: Collection[str] = ()


def groups_of(vae: AutoencoderKLWan) -> dict[str, str]:
    """Parts of a decoder, from the latents to the pixels, by the beginning of their modules' names."""
    levels = {f"level {index}": f"decoder.up_blocks.{index}." for index in range(len(vae.decoder.up_blocks))}
    return {"middle": "decoder.mid_block.", **levels}


def channels_last_in(vae: AutoencoderKLWan, prefix: str) -> int:
    """`use_channels_last` for the convolutions of a part alone."""
    part = vae.get_submodule(prefix.removesuffix("."))
    assert isinstance(part, nn.Module)
    return use_channels_last(part)


def ways(vae: AutoencoderKLWan, *, every: bool) -> Iterator[Way]:
    """The first is what all are compared with. `every`: also what is there to see where time goes."""
    nothing = frozenset[int]()

    def library(module: AutoencoderKLWan, latents: Tensor) -> Tensor:
        pixels: Tensor = module.decode(latents, return_dict=False)[0]
        return pixels

    def changed(surgery: Callable[[AutoencoderKLWan], int] | None, chunk: int = CHUNK) -> Decode:
        other = copy.deepcopy(vae)
        if surgery is not None:
            surgery(other)
        return lambda latents: decode_pixels(other, latents, chunk)

    def fused(
        *, merge: bool, paired: frozenset[int], chunk: int = CHUNK, fp8: Collection[str] = ()
    ) -> Decode:
        return changed(partial(use_fused_vae, merge_upsampling=merge, paired=paired, fp8=fp8), chunk)

    best = partial(fused, merge=True, paired=FINEST)
    yield Way(name=LIBRARY, make=lambda: partial(library, vae))
    yield Way(name=BEST, make=best)
    possible = [name for name, reason in fp8_convolutions(vae).items() if reason is None]
    named = list(groups_of(vae).items())
    for first in range(len(named) - 1, -1, -1):
        prefixes = tuple(prefix for _, prefix in named[first:])
        inside = [name for name in possible if name.startswith(prefixes)]
        if first == 0:
            yield Way(name=FP8_ALL, make=partial(best, fp8=possible), fp8=possible)
        elif inside and (every or first >= len(named) - 2):
            name = f"fused, FP8 from {named[first][0]} on"
            yield Way(name=name, make=partial(best, fp8=inside), fp8=inside)
    if not every:
        return
    wide = partial(fused, merge=True, paired=nothing, fp8=possible)
    yield Way(name=f"{FP8_ALL}, no columns paired", make=wide, fp8=possible)
    yield Way(name="chunks of 4", make=partial(changed, None))
    yield Way(name="chunks of 4, channels last", make=partial(changed, use_channels_last))
    for group, prefix in named:
        surgery = partial(channels_last_in, prefix=prefix)
        yield Way(name=f"chunks of 4, channels last in {group}", make=partial(changed, surgery))
    yield Way(name=f"{LIBRARY}, cuDNN tuned", make=lambda: tuned(partial(library, vae)))
    yield Way(name="fused, chunks of 4", make=partial(fused, merge=False, paired=nothing))
    yield Way(name="fused, upsampling merged, chunks of 4", make=partial(fused, merge=True, paired=nothing))
    yield Way(name="fused, columns paired, chunks of 4", make=partial(fused, merge=False, paired=FINEST))
    yield Way(name="fused, merged and paired, chunks of 1", make=partial(best, chunk=1))
    yield Way(name="fused, merged and paired, chunks of 10", make=partial(best, chunk=10))
    yield Way(name=f"{BEST}, cuDNN tuned", make=lambda: tuned(best()))


def tuned(decode: Decode) -> Decode:
    """cuDNN measures its algorithms at the first call of each shape instead of guessing."""

    def run(latents: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            return decode(latents)

    return run
