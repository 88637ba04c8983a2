"""Wan2.2-TI2V, and the bundled model: clean latents of the prefix at timestep 0 before the noisy ones."""

from __future__ import annotations

from diffusers import WanTransformer3DModel

from engine.generators.wan.conditioning import CleanPrefix
from engine.generators.wan.family import WanFamily
from engine.generators.wan.flow_run import FlowRun
from engine.generators.wan.variant import Variant

VARIANT = Variant(
    name="Wan with per-token timesteps",
    transformer_class=WanTransformer3DModel,
    conditioning=CleanPrefix(),
    family=WanFamily,
    run=FlowRun(),
    has_exports=True,
)
