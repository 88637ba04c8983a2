"""AnyFlow-FAR: a flow map in few steps, chunk after chunk, each behind keys and values of those before it."""

from __future__ import annotations

from diffusers import AnyFlowFARTransformer3DModel

from engine.generators.wan.conditioning import CleanPrefix
from engine.generators.wan.far.family import FarFamily
from engine.generators.wan.far.run import FarRun
from engine.generators.wan.variant import Variant

VARIANT = Variant(
    name="AnyFlow-FAR",
    transformer_class=AnyFlowFARTransformer3DModel,
    conditioning=CleanPrefix(),
    family=FarFamily,
    run=FarRun(),
    defaults={
        "fps": 16.0,
        "width": 832,
        "height": 480,
        "prefix_frames": 48,
        "num_frames": 80,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
    },
    fps=16.0,
    schedulers=("FlowMapEulerDiscreteScheduler",),
    is_guided=False,
    without_states="it denoises chunk after chunk, so that no step sees all frames of a take",
)
