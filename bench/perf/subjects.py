"""Full-size Wan architectures with random weights made on the device: the subjects of speed measurements.

Speed and memory do not depend on the values, quality does: nothing here may be read as a result of a
published model. FLOP counts follow the architectures: d width, m feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.denoise.sampler import PrefixTimestep

TEXT_TOKENS = 512

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "wan2.1-1.3b": {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960},
    "wan2.1-14b": {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824},
    "wan2.2-5b": {
        "num_attention_heads": 24,
        "num_layers": 30,
        "ffn_dim": 14336,
        "in_channels": 48,
        "out_channels": 48,
    },
    "tiny": {
        "num_attention_heads": 2,
        "attention_head_dim": 64,
        "num_layers": 4,
        "ffn_dim": 256,
        "text_dim": 64,
    },
}
STRIDES = {"wan2.2-5b": (4, 16)}
"""Pixels per latent in time and space; (4, 8) for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An architecture at a video size; `prefix_frames` latent frames are clean."""

    architecture: str
    width: int
    height: int
    num_frames: int
    prefix_frames: int = 0
    batch: int = 1

    @property
    def name(self) -> str:
        rows = f" x{self.batch}" if self.batch > 1 else ""
        return f"{self.architecture} {self.height}x{self.width}x{self.num_frames}{rows}"

    @property
    def config(self) -> dict[str, Any]:
        return ARCHITECTURES[self.architecture]

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        in_time, in_space = STRIDES.get(self.architecture, (4, 8))
        frames = (self.num_frames - 1) // in_time + 1
        channels = self.config.get("in_channels", 16)
        return 1, channels, frames, self.height // in_space, self.width // in_space

    @property
    def tokens_per_frame(self) -> int:
        return (self.latent_shape[3] // 2) * (self.latent_shape[4] // 2)

    @property
    def num_tokens(self) -> int:
        return self.latent_shape[2] * self.tokens_per_frame

    @property
    def width_of_model(self) -> int:
        return int(self.config["num_attention_heads"] * self.config.get("attention_head_dim", 128))

    @property
    def linear_flops(self) -> float:
        d, m, tokens = self.width_of_model, self.config["ffn_dim"], self.num_tokens
        text = 2 * 2 * d * d * TEXT_TOKENS
        return float(self.batch * self.config["num_layers"] * (2 * (6 * d * d + 2 * d * m) * tokens + text))

    @property
    def attention_flops(self) -> float:
        tokens, d, layers = self.num_tokens, self.width_of_model, self.config["num_layers"]
        return float(self.batch * layers * (4 * tokens * tokens * d + 4 * tokens * TEXT_TOKENS * d))

    @property
    def flops(self) -> float:
        return self.linear_flops + self.attention_flops

    def inputs(self, device: torch.device) -> tuple[Tensor, PrefixTimestep, Tensor]:
        """Latents fp32 [1, Z, F, h, w], the timestep and text [B, 512, text width], random and seeded."""
        generator = torch.Generator(device).manual_seed(0)
        latents = torch.randn(self.latent_shape, generator=generator, device=device)
        shape = (self.batch, TEXT_TOKENS, self.config.get("text_dim", 4096))
        text = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        timestep = PrefixTimestep(
            value=700.0,
            prefix_frames=self.prefix_frames,
            latent_frames=self.latent_shape[2],
            tokens_per_frame=self.tokens_per_frame,
        )
        return latents, timestep, text


def build_transformer(architecture: str, device: torch.device) -> WanTransformer3DModel:
    """Random bf16 weights, with the fp32 islands that the library keeps when it loads a checkpoint."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    text = {"text_dim": 4096, **ARCHITECTURES[architecture]}
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            model = WanTransformer3DModel(**{"attention_head_dim": 128, "patch_size": (1, 2, 2)} | text)
    finally:
        torch.set_default_dtype(before)
    islands = set(model._keep_in_fp32_modules)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if islands.intersection(name.split(".")):
            tensor.data = tensor.data.float()
    return model.eval().requires_grad_(False)
