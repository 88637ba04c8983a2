"""What `retake.json` of a Cosmos3 folder may set; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from engine.settings.config import GeneratorConfig
from engine.settings.fields import same_setting, setting, validate

SAME, INVERSE, NONE = "same", "inverse", "none"
FOLDER, ON, OFF = "folder", "on", "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosmos3Defaults:
    """What a folder wants to be run with: by default NVIDIA's recipe for Physics-IQ with a 3 s prefix
    (github.com/NVIDIA/cosmos, evaluation/cosmos3/Physics_IQ)."""

    fps: float = setting(24.0, low=1.0, high=240.0, help="Frames per second of a take.")
    width: int = setting(1280, low=16, high=16384, help="Pixels of a take, a multiple of 16.")
    height: int = setting(720, low=16, high=16384, help="As width.")
    prefix_frames: int = setting(72, low=1, high=10_000, help="Frames of the prefix that a take continues.")
    num_frames: int = setting(
        120, low=1, high=10_000, help="Frames of a take behind its prefix, a multiple of 4."
    )
    num_inference_steps: int = same_setting(GeneratorConfig, "steps", 50, unset="")
    flow_shift: float = setting(
        5.0,
        low=0.01,
        high=100.0,
        help="Shift of the noise levels, in place of that in the scheduler.",
    )
    guidance_scale: float = same_setting(GeneratorConfig, "guidance_scale", 6.0, unset="")
    negative_prompt: str = same_setting(
        GeneratorConfig,
        "negative",
        "blocky compression, noise, flicker, over- or underexposed, blurred, shaky or moving camera, zoom, "
        "cut, jump in time, slideshow, things that appear, vanish, merge, pass through each other, float or "
        "change shape, motion without a cause, physically impossible events",
        unset="none",
    )
    negative_metadata: str = setting(
        SAME,
        choices=(SAME, INVERSE, NONE),
        help="What is said of length and size behind the negative prompt: the same as behind the prompt, as "
        "in NVIDIA's recipe; its inverse, as in diffusers; or nothing.",
    )
    system_prompt: str = setting(
        FOLDER,
        choices=(FOLDER, ON, OFF),
        help="Whether a system prompt stands before the text; folder: as model_index.json says.",
    )
    structured_prompt: bool = setting(
        True, help="Write prompts as the JSON that the models were trained with, not as sentences."
    )
    max_text_tokens: int = setting(
        2048, low=1, high=32_768, help="Longest text that is read; memory is planned for it."
    )

    def __post_init__(self) -> None:
        validate(self, "")


SIDECAR_SETTINGS = Cosmos3Defaults
