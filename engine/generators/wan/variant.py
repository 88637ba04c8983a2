"""What one variant of the Wan family is, as data: transformer, conditioning, how it is run by default.

Whoever reads a folder, plans memory or runs a take asks this, and knows no variant. A new one is a file in
`variants/`. Imports no module of a variant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from engine.denoise.beginnings import ALL, Part
from engine.denoise.family import Shape
from engine.denoise.finite import FiniteWatch
from engine.denoise.guidance import GuidedText
from engine.denoise.rollout import Rollout
from engine.denoise.sampler import Schedule
from engine.denoise.states import StateTap
from engine.generators.wan.components import unfit
from engine.generators.wan.conditioning import Conditioning
from engine.generators.wan.settings import WanDefaults
from engine.settings.presets import DenoiseSettings
from engine.settings.sidecars import SIDECAR
from engine.types import PREFIX_SECONDS, VideoSpec

if TYPE_CHECKING:
    from engine.generators.wan.folder import WanParts
    from engine.generators.wan.generator import WanGenerator


class Run(Protocol):
    """How takes of a variant are denoised."""

    @property
    def goes_on(self) -> bool:
        """Whether the first steps of a take are of all its frames, so that one can go on behind them."""
        ...

    def check(self, folder: Path, defaults: WanDefaults, config: Any) -> None:
        """ModelError for what the configuration of a transformer does not allow."""
        ...

    def settings(self, given: DenoiseSettings, parts: WanParts) -> tuple[DenoiseSettings, Mapping[str, str]]:
        """Those that are used, and a note on each that a preset asks and that cannot be; ConfigError for what
        no preset asks."""
        ...

    def num_steps(self, schedule: Schedule, parts: WanParts) -> int:
        """Denoise steps of one take."""
        ...

    def shape(self, parts: WanParts, rows: int) -> Shape:
        """What one forward sees, with so many rows of guidance."""
        ...

    def denoise_bytes(self, parts: WanParts, spec: VideoSpec, rows: int, settings: DenoiseSettings) -> int:
        """Peak of one forward, without the text that all steps share."""
        ...

    def kept_bytes(self, parts: WanParts, spec: VideoSpec) -> int:
        """What a take keeps from step to step beside its latents and its text."""
        ...

    def rollout(
        self,
        generator: WanGenerator,
        text: GuidedText,
        noise: Tensor,
        encoded: Tensor,
        watch: FiniteWatch,
        part: Part = ALL,
        tap: StateTap | None = None,
    ) -> Rollout:
        """Over float32 noise [1, Z, F, h, w] and what the conditioning made of the prefix. `tap` keeps hidden
        states, of a variant that has them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """`name` as errors and the manifest say it."""

    name: str
    transformer_class: Any
    """Of diffusers."""
    conditioning: Conditioning
    family: Callable[[Any], Any]
    """Over a transformer, `engine.denoise.family.Family`; its denoisers are what `run` calls."""
    run: Run
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Where they differ from those of `WanDefaults`; a folder's sidecar is laid over them."""
    fps: float | None = None
    """At which its models were trained; None: a folder may say any."""
    takes_an_image: bool = False
    """Whether a prefix of one frame is one of its tasks."""
    schedulers: tuple[str, ...] = ("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler")
    is_guided: bool = True
    """False: guidance is in the weights, and there is none beside them."""
    without_states: str | None = None
    """Why the hidden states of its takes cannot be kept; None: they can."""
    has_exports: bool = False
    """Whether `retake export` knows its forward."""

    def check(self, folder: Path, defaults: WanDefaults, transformer: Any, vae: Any) -> None:
        """ModelError where the folder's parts or defaults are not of this variant."""
        config = transformer.config
        seen = vae.config.z_dim + self.conditioning.num_channels(vae.config)
        needed = (seen, vae.config.z_dim)
        if (channels := (input_channels(config), config.out_channels)) != needed:
            raise unfit(
                folder, "transformer", f"channels {channels}", f"{needed} with this vae ({self.name})"
            )
        if config.get("image_dim") is not None:
            raise unfit(
                folder, "transformer", "an image encoder beside the text", "none: it sees one image alone"
            )
        if self.fps is None:
            return
        if defaults.fps != self.fps:
            found = f"fps {defaults.fps:g}"
            raise unfit(folder, SIDECAR, found, f"{self.fps:g}, as {self.name} was trained")
        whole = round(PREFIX_SECONDS * self.fps)
        allowed = (1, whole) if self.takes_an_image else (whole,)
        if defaults.prefix_frames not in allowed:
            found = f"prefix_frames {defaults.prefix_frames} ({defaults.prefix_frames / defaults.fps:g} s)"
            told = f"{whole} ({PREFIX_SECONDS:g} s)" + (", or 1, an image" if self.takes_an_image else "")
            raise unfit(folder, SIDECAR, found, told)
        self.run.check(folder, defaults, config)


def input_channels(config: Any) -> int:
    """Of what a transformer's denoiser is given: the noisy latents, and all that is beside them."""
    return int(config.in_channels + (config.get("vace_in_channels") or 0))
