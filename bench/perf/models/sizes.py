"""Shapes of the models that are measured, as data: as published, at 480p; and their layouts for a CPU.

The text encoder has the right width and few layers, so that memory is that of a run whose encoder lies on the
host. The critic is that of `bench.perf.end_to_end`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.perf.end_to_end.sizes import FULL as WHOLE_RUN
from bench.perf.end_to_end.sizes import TINY as TINY_WHOLE_RUN
from bench.perf.end_to_end.sizes import Size as Surroundings

VACE, TI2V, ANYFLOW = "vace-14b", "wan2.2-5b", "anyflow-1.3b"
NAMES = (TI2V, ANYFLOW, VACE)
"""In the order in which they are measured: the quickest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Keyword arguments of the library's transformer and autoencoder, and what `retake.json` says.

    `timed_steps` of a take that is timed; a clip has the sidecar's. `least_s`: with less time than this no
    process is begun for it, whose models would hardly be loaded; `row_s`: nor a row that is the first of its
    stage.
    """

    name: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    wan22_vae: bool
    sidecar: Mapping[str, Any]
    timed_steps: int
    least_s: float
    row_s: float

    @property
    def whole_steps(self) -> int:
        steps: int = self.sidecar["num_inference_steps"]
        return steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`around`: text encoder, critic and clip."""

    name: str
    around: Surroundings
    models: tuple[Model, ...]

    def model(self, name: str) -> Model:
        return next(model for model in self.models if model.name == name)


WAN = {"patch_size": (1, 2, 2), "text_dim": 4096, "freq_dim": 256}
AT_16_FPS = {"fps": 16.0, "width": 832, "height": 480, "prefix_frames": 48, "num_frames": 80}
GUIDED = {"num_inference_steps": 50, "guidance_scale": 5.0, "clip_prompts": True}
FEW_STEPS = {"num_inference_steps": 4, "guidance_scale": 1.0, "clip_prompts": True}
WAN21_VAE = {"base_dim": 96, "z_dim": 16, "num_res_blocks": 2}

FULL = Size(
    name="full",
    around=WHOLE_RUN,
    models=(
        Model(
            name=TI2V,
            transformer={**WAN, **WHOLE_RUN.transformer},
            vae=WHOLE_RUN.vae,
            wan22_vae=True,
            sidecar={**WHOLE_RUN.generator_sidecar, **GUIDED},
            timed_steps=4,
            least_s=90.0,
            row_s=45.0,
        ),
        Model(
            name=ANYFLOW,
            transformer=WAN | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
            vae=WAN21_VAE,
            wan22_vae=False,
            sidecar=AT_16_FPS | FEW_STEPS,
            timed_steps=4,
            least_s=90.0,
            row_s=45.0,
        ),
        Model(
            name=VACE,
            transformer=WAN | {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
            vae=WAN21_VAE,
            wan22_vae=False,
            sidecar=AT_16_FPS | GUIDED,
            timed_steps=2,
            least_s=240.0,
            row_s=150.0,
        ),
    ),
)
SMALL = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "text_dim": 64,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 2,
}
SMALL_VAE = {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1}
SMALL_VIDEO = {"width": 64, "height": 64, "num_frames": 8, "num_inference_steps": 3, "clip_prompts": True}
TINY = Size(
    name="tiny",
    around=TINY_WHOLE_RUN,
    models=(
        Model(
            name=TI2V,
            transformer=SMALL | {"in_channels": 8, "out_channels": 8},
            vae=TINY_WHOLE_RUN.vae,
            wan22_vae=True,
            sidecar=SMALL_VIDEO | {"fps": 4.0, "prefix_frames": 12, "guidance_scale": 5.0},
            timed_steps=2,
            least_s=0.0,
            row_s=0.0,
        ),
        Model(
            name=ANYFLOW,
            transformer=SMALL | {"in_channels": 4, "out_channels": 4},
            vae=SMALL_VAE,
            wan22_vae=False,
            sidecar=SMALL_VIDEO | {"fps": 16.0, "prefix_frames": 48, "guidance_scale": 1.0},
            timed_steps=2,
            least_s=0.0,
            row_s=0.0,
        ),
        Model(
            name=VACE,
            transformer=SMALL
            | {"in_channels": 4, "out_channels": 4, "vace_layers": [0], "vace_in_channels": 72},
            vae=SMALL_VAE,
            wan22_vae=False,
            sidecar=SMALL_VIDEO | {"fps": 16.0, "prefix_frames": 48, "guidance_scale": 5.0},
            timed_steps=2,
            least_s=0.0,
            row_s=0.0,
        ),
    ),
)
SIZES = {size.name: size for size in (FULL, TINY)}
