"""Cosmos3 for `assemble`: where its attention is, what it cannot do, how forward and denoiser are made."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from diffusers import Cosmos3OmniTransformer

from engine.denoise.family import AttentionSite, Parts, Shape
from engine.errors import ConfigError
from engine.generators.cosmos3.eager import EagerDenoiser
from engine.generators.cosmos3.forward import Cosmos3Denoiser, FastCosmos3
from engine.generators.cosmos3.recipes import cosmos3_recipe
from engine.quant.precision_policy import AUTO, OFF, Range
from engine.quant.recipes import QuantRecipe
from engine.settings.presets import DenoiseSettings


@dataclass(frozen=True, slots=True)
class Cosmos3Family:
    """One loaded transformer as engine/denoise/family.py describes it, for videos of `fps`."""

    transformer: Cosmos3OmniTransformer
    _: KW_ONLY
    fps: float

    @property
    def recipe(self) -> QuantRecipe:
        return cosmos3_recipe(self.transformer)

    @property
    def site(self) -> AttentionSite:
        weight, config = self.transformer.proj_in.weight, self.transformer.config
        return AttentionSite(
            heads=config.num_attention_heads,
            head_dim=config.head_dim,
            dtype=weight.dtype,
            device=weight.device,
            joins_text=True,
        )

    @property
    def has_graphs(self) -> bool:
        return False

    @property
    def calibrated_attentions(self) -> tuple[str, ...]:
        return ()

    def refuse(self, settings: DenoiseSettings, shape: Shape) -> None:
        if settings.graphs == "on":
            raise ConfigError("there is no CUDA graph of Cosmos3", fix="leave graphs off or auto")
        if settings.policy not in (AUTO, OFF):
            raise ConfigError(
                "no policy is measured for Cosmos3",
                fix="leave the policy auto or off, and give formats and ranges by hand",
            )
        if shape.batch != 1:
            raise ConfigError(
                f"Cosmos3 predicts one branch of guidance at a time, not {shape.batch}: prompt and negative "
                "prompt differ in length, and the length of a text moves the positions of the video",
                fix="run the branches one by one",
            )

    def library_denoiser(self) -> EagerDenoiser:
        return EagerDenoiser(self.transformer, fps=self.fps)

    def fast_forward(self, parts: Parts) -> FastCosmos3:
        return FastCosmos3(
            self.transformer,
            fps=self.fps,
            element_wise=parts.element_wise,
            attention=parts.attention,
            quantized_attention=parts.quantized_attention,
        )

    def denoiser(
        self, forward: FastCosmos3, ranges: tuple[tuple[Range, ...], ...] | None, *, graphs: bool
    ) -> Cosmos3Denoiser:
        assert not graphs, "there is no CUDA graph of Cosmos3"
        return Cosmos3Denoiser(forward, quantized_ranges=ranges)
