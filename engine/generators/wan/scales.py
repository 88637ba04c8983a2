"""How strong guidance is, of each transformer of a folder. Runs none."""

from __future__ import annotations

from engine.errors import ConfigError
from engine.generators.wan.folder import WanParts
from engine.settings.sidecars import SIDECAR


def scales_of(parts: WanParts, given: float | None) -> tuple[float, ...]:
    """Of each transformer. ConfigError where guidance is on for one alone."""
    first = parts.defaults.guidance_scale if given is None else given
    if first != 1.0 and not parts.variant.is_guided:
        raise ConfigError(
            f"guidance_scale {first:g}, and the weights of {parts.variant.name} have guidance in them",
            fix="leave --guidance-scale out, or give 1",
        )
    if parts.boundary is None:
        return (first,)
    told = parts.defaults.guidance_scale_2
    second = first if given is not None or told is None else told
    if (first == 1.0) != (second == 1.0):
        raise ConfigError(
            f"guidance_scale {first:g} and guidance_scale_2 {second:g} switch guidance off for one alone",
            fix=f"make both 1, or none of them, in {parts.folder / SIDECAR}",
        )
    return first, second
