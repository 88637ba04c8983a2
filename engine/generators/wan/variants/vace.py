"""Wan2.1-VACE: a control network is shown the prefix, grey behind it, and a mask of what is to be made."""

from __future__ import annotations

from diffusers import WanVACETransformer3DModel

from engine.generators.wan.conditioning import VaceControl
from engine.generators.wan.family import WanFamily
from engine.generators.wan.flow_run import FlowRun
from engine.generators.wan.variant import Variant

VARIANT = Variant(
    name="Wan VACE",
    transformer_class=WanVACETransformer3DModel,
    conditioning=VaceControl(),
    family=WanFamily,
    run=FlowRun(),
    defaults={"fps": 16.0, "width": 832, "height": 480, "prefix_frames": 48, "num_frames": 80},
    fps=16.0,
)
