"""What a family of transformers brings, so that `assemble` makes a fast denoiser without knowing it.

Each family implements `Family` in its own room; an instance holds one loaded transformer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import nn

from engine.denoise.layers import BoundAttention, ElementWise
from engine.protocols import Denoiser
from engine.quant.precision_policy import Range
from engine.quant.recipes import QuantRecipe
from engine.settings.presets import DenoiseSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the denoiser will be asked: rows of guidance at a time, tokens of video, which those of its clean
    prefix begin, and of text."""

    batch: int
    tokens: int
    text_tokens: int
    prefix_tokens: int = 0
    context_tokens: int = 0
    """That the tokens of video look at at most, where these are not they themselves alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSite:
    """Where the attention of the video happens."""

    heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    joins_text: bool
    """Whether the video attends to itself and to the text at once; else the text has a cross-attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What `assemble` has chosen for the fast forward."""

    element_wise: ElementWise
    attention: BoundAttention
    quantized_attention: BoundAttention | None
    cross_attention: BoundAttention | None
    """None where text and video are joined."""


class FastForward(Protocol):
    @property
    def blocks(self) -> nn.ModuleList: ...


Forward = TypeVar("Forward", bound=FastForward)


class Family(Protocol[Forward]):
    @property
    def transformer(self) -> nn.Module:
        """The library's; quantization changes it in place."""
        ...

    @property
    def recipe(self) -> QuantRecipe: ...

    @property
    def site(self) -> AttentionSite: ...

    @property
    def has_graphs(self) -> bool:
        """Whether `denoiser` can record CUDA graphs."""
        ...

    @property
    def calibrated_attentions(self) -> tuple[str, ...]:
        """The attention of each block as a precision policy names it; empty: the family has no policies."""
        ...

    def refuse(self, settings: DenoiseSettings, shape: Shape) -> None:
        """ConfigError for what this family cannot do."""
        ...

    def library_denoiser(self) -> Denoiser:
        """Over the untouched library transformer."""
        ...

    def fast_forward(self, parts: Parts) -> Forward:
        """Shares the parameters of the transformer."""
        ...

    def denoiser(
        self, forward: Forward, ranges: tuple[tuple[Range, ...], ...] | None, *, graphs: bool
    ) -> Denoiser:
        """Over a `fast_forward`; `ranges`: for each block the timesteps of its quantized attention."""
        ...
