"""What a Wan generator is not loaded with: settings, parts and exported forms that do not go together."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from engine.denoise.assemble import Assembled
from engine.denoise.beginnings import STATES_OF_ONE_SIZE
from engine.denoise.take import refuse_numbers
from engine.errors import ConfigError
from engine.generators.wan.folder import WanParts
from engine.settings.presets import DenoiseSettings
from engine.types import ScoutForm

if TYPE_CHECKING:
    from engine.generators.wan.generator import WanGenerator

BLOCKS, ON_HOST_IN_TURN = "blocks", "experts"
"""What may be streamed beside the text encoder."""


def refuse(
    num_inference_steps: int | None,
    guidance_scale: float | None,
    settings: DenoiseSettings,
    streamed: Collection[str],
    exported: Assembled | None,
) -> None:
    refuse_numbers(num_inference_steps, guidance_scale)
    if BLOCKS in streamed and (settings.forward != "library" or exported is not None):
        raise ConfigError(
            "memory.blocks is streamed, which only the library's forward can be",
            fix='use preset exact without --denoiser, or set memory.blocks = "device"',
        )
    if {BLOCKS, ON_HOST_IN_TURN} <= set(streamed):
        raise ConfigError(
            "memory.blocks and memory.experts are both streamed, and streamed blocks leave no expert to move",
            fix='set one of them to "device"',
        )


def refuse_for(parts: WanParts, exported: Assembled | None) -> None:
    if ON_HOST_IN_TURN in parts.streamed and parts.boundary is None:
        raise ConfigError(
            f"memory.experts is streamed, and {parts.folder} has one transformer",
            fix='set memory.experts = "device"',
        )
    if exported is not None:
        require_exportable(parts)


def require_exportable(parts: WanParts) -> None:
    if not parts.variant.has_exports or parts.boundary is not None:
        what = parts.variant.name + (" with two transformers" if parts.boundary is not None else "")
        raise ConfigError(
            f"{parts.folder} is {what}, of which no denoiser is exported",
            fix="leave --denoiser out",
        )


def why_one_at_a_time(generator: WanGenerator, form: ScoutForm) -> str | None:
    """Why scouts of this form share no forward; None: they do."""
    if generator.denoiser_bytes is not None:
        return "an exported denoiser has the rows that it was built with"
    if not generator.parts.variant.run.goes_on:
        return f"{generator.parts.variant.name} goes on from what it keeps of one take"
    if generator.sites is not None:
        return "hidden states are kept, which are of the last row of a forward"
    if generator.settings.early_stop and not form.whole:
        return "denoise.early_stop ends each at a step of its own"
    return None


def why_one_size(generator: WanGenerator) -> str | None:
    """Why its scouts are of the size of its takes; None: they may have fewer pixels."""
    if generator.denoiser_bytes is not None:
        return "an exported denoiser has the size that it was built for"
    if not generator.parts.variant.run.goes_on:
        return f"chunks of {generator.parts.variant.name} are of one size"
    return None if generator.sites is None else STATES_OF_ONE_SIZE
