"""What `retake.json` of a Wan folder may set; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from engine.settings.config import GeneratorConfig
from engine.settings.fields import same_setting, setting, validate

BEFORE_SHIFT, AFTER_SHIFT = "before shift", "after shift"
ALL, OWN = "all", "own"
PREFIX_ATTENTION = (ALL, OWN)
"""What prefix tokens look at: everything, as in the published models, or their own clean prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WanDefaults:
    """What a folder wants to be run with: by default its variant's values, here Wan2.2-TI2V-5B's."""

    fps: float = setting(24.0, low=1.0, high=240.0, help="Frames per second of a take.")
    width: int = setting(1280, low=16, high=16384, help="Pixels of a take, a multiple of the model's patch.")
    height: int = setting(704, low=16, high=16384, help="As width.")
    prefix_frames: int = setting(72, low=1, high=10_000, help="Frames of the prefix that a take continues.")
    num_frames: int = setting(
        120, low=1, high=10_000, help="Frames of a take behind its prefix, a multiple of 4."
    )
    num_inference_steps: int = same_setting(GeneratorConfig, "steps", 50, unset="")
    timesteps: tuple[float, ...] | None = setting(
        None,
        unset="none",
        help="The steps of a model that was distilled for just these: falling, from 1000, which is noise.",
    )
    timesteps_are: str | None = setting(
        None,
        unset="not said",
        choices=(BEFORE_SHIFT, AFTER_SHIFT),
        help="Whether the scheduler's flow shift is still to be applied to them, as in LightX2V's and "
        "Self-Forcing's lists, or is in them. Must be given where the scheduler has a shift.",
    )
    guidance_scale: float = same_setting(GeneratorConfig, "guidance_scale", 5.0, unset="")
    guidance_scale_2: float | None = setting(
        None,
        low=1.0,
        high=50.0,
        unset="that of the first",
        help="Guidance scale of the second of two transformers, unless one is given for the run.",
    )
    negative_prompt: str = same_setting(
        GeneratorConfig,
        "negative",
        "overexposed, blurred details, subtitles, painting, still picture, worst quality, low quality, "
        "compression artifacts, deformed, disfigured, cluttered background",
        unset="none",
    )
    clip_prompts: bool = setting(
        False,
        help="Read the first tokens of a prompt over the limit, as in training; otherwise it is refused.",
    )
    prefix_attention: str = setting(
        ALL,
        choices=PREFIX_ATTENTION,
        help="What prefix tokens look at, as in training: all, or own, the prefix alone and no text.",
    )

    def __post_init__(self) -> None:
        validate(self, "")


SIDECAR_SETTINGS = WanDefaults
