"""AnyFlow-FAR for `assemble`: where its attention is, and how its forwards and models of chunks are made."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import AnyFlowFARTransformer3DModel

from engine.denoise.family import AttentionSite, Parts, Shape
from engine.errors import ConfigError
from engine.generators.wan.far.forward import FarDenoiser, FarWan
from engine.generators.wan.far.library import LibraryFar
from engine.generators.wan.recipes import WAN_FAR
from engine.quant.precision_policy import Range
from engine.quant.recipes import QuantRecipe
from engine.settings.presets import DenoiseSettings


@dataclass(frozen=True, slots=True)
class FarFamily:
    """One loaded transformer as engine/denoise/family.py describes it; its denoisers predict chunks."""

    transformer: AnyFlowFARTransformer3DModel

    @property
    def recipe(self) -> QuantRecipe:
        return WAN_FAR

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
        return False

    @property
    def calibrated_attentions(self) -> tuple[str, ...]:
        return ()

    def refuse(self, settings: DenoiseSettings, shape: Shape) -> None:
        if settings.graphs == "on":
            raise ConfigError(
                "there is no CUDA graph of AnyFlow-FAR: its context grows with every chunk",
                fix="leave graphs off or auto",
            )

    def library_denoiser(self) -> LibraryFar:
        return LibraryFar(self.transformer)

    def fast_forward(self, parts: Parts) -> FarWan:
        assert parts.cross_attention is not None, "the text of Wan has an attention of its own"
        return FarWan(
            self.transformer,
            element_wise=parts.element_wise,
            attention=parts.attention,
            cross_attention=parts.cross_attention,
        )

    def denoiser(
        self, forward: FarWan, ranges: tuple[tuple[Range, ...], ...] | None, *, graphs: bool
    ) -> FarDenoiser:
        assert ranges is None and not graphs, "neither 8-bit attention nor graphs"
        return FarDenoiser(forward)
