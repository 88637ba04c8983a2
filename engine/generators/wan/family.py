"""Wan for `assemble`: where its attention is, and how its fast forward and its denoisers are made."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

from engine.denoise.family import AttentionSite, Parts, Shape
from engine.generators.wan.denoiser import FastDenoiser
from engine.generators.wan.eager import EagerDenoiser
from engine.generators.wan.forward import FastWan
from engine.generators.wan.recipes import wan_recipe
from engine.quant.precision_policy import Range
from engine.quant.recipes import QuantRecipe
from engine.settings.presets import DenoiseSettings


@dataclass(frozen=True, slots=True)
class WanFamily:
    """One loaded transformer as engine/denoise/family.py describes it."""

    transformer: WanTransformer3DModel | WanVACETransformer3DModel

    @property
    def recipe(self) -> QuantRecipe:
        return wan_recipe(self.transformer)

    @property
    def site(self) -> AttentionSite:
        weight, config = self.transformer.patch_embedding.weight, self.transformer.config
        return AttentionSite(
            heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            dtype=weight.dtype,
            device=weight.device,
            joins_text=False,
        )

    @property
    def has_graphs(self) -> bool:
        return True

    @property
    def calibrated_attentions(self) -> tuple[str, ...]:
        if isinstance(self.transformer, WanVACETransformer3DModel):
            return ()  # a policy knows one list of blocks
        return tuple(f"blocks.{index}.attn1" for index in range(len(self.transformer.blocks)))

    def refuse(self, settings: DenoiseSettings, shape: Shape) -> None:
        """Nothing: all settings go, with one row of guidance or two."""

    def library_denoiser(self) -> EagerDenoiser:
        return EagerDenoiser(self.transformer)

    def fast_forward(self, parts: Parts) -> FastWan:
        assert parts.cross_attention is not None, "the text of Wan has an attention of its own"
        return FastWan(
            self.transformer,
            element_wise=parts.element_wise,
            attention=parts.attention,
            quantized_attention=parts.quantized_attention,
            cross_attention=parts.cross_attention,
        )

    def denoiser(
        self, forward: FastWan, ranges: tuple[tuple[Range, ...], ...] | None, *, graphs: bool
    ) -> FastDenoiser:
        return FastDenoiser(forward, quantized_ranges=ranges, graphs=graphs)
