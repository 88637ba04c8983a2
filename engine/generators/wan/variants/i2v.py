"""Wan2.2-I2V-A14B: 36 input channels, of which 20 say which frames are given, and two transformers."""

from __future__ import annotations

from diffusers import WanTransformer3DModel

from engine.generators.wan.conditioning import PrefixChannels
from engine.generators.wan.family import WanFamily
from engine.generators.wan.flow_run import FlowRun
from engine.generators.wan.variant import Variant

VARIANT = Variant(
    name="Wan I2V",
    transformer_class=WanTransformer3DModel,
    conditioning=PrefixChannels(),
    family=WanFamily,
    run=FlowRun(),
    defaults={
        "fps": 16.0,
        "width": 832,
        "height": 480,
        "prefix_frames": 48,
        "num_frames": 80,
        "num_inference_steps": 40,
        "guidance_scale": 3.5,
    },
    fps=16.0,
    takes_an_image=True,
)
