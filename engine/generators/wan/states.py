"""Where the takes of a Wan generator keep hidden states, or why they cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.denoise.states import Observable, refuse_states, sites_of
from engine.types import StateSites

if TYPE_CHECKING:
    from engine.generators.wan.generator import WanGenerator


def wan_sites(generator: WanGenerator) -> StateSites:
    """ConfigError for a variant, or a denoiser, that has none to give."""
    parts = generator.parts
    if (why := parts.variant.without_states) is not None:
        raise refuse_states(parts.variant.name, why)
    if not all(isinstance(denoiser, Observable) for denoiser in generator.denoisers):
        raise refuse_states("an exported denoiser", "it gives velocities alone")
    config = parts.transformer.config
    return sites_of(
        generator.schedule.timesteps,
        generator.extrapolated,
        num_layers=len(parts.transformer.blocks),
        width=config.num_attention_heads * config.attention_head_dim,
    )
