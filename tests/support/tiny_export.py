"""A Wan transformer of random weights as an export subject, as small as every recipe allows; no test here."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from export.dtypes import TORCH_DTYPES
from export.quantization.calibrate import Forward, observe
from export.quantization.scales import Scales
from export.spec import Profile, Subject
from export.subjects import wan_dit

SIZES = {"B": 1, "F": 3, "h": 4, "w": 6, "L": 12}
PROFILE = Profile(name="tiny", sizes=SIZES)


def transformer(dtype: str = "fp32", *, num_layers: int = 2, **changes: Any) -> WanTransformer3DModel:
    """The same weights on every call, with the library's fp32 islands."""
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 16,
        "ffn_dim": 64,
        "num_layers": num_layers,
        "rope_max_seq_len": 32,
    }
    model = WanTransformer3DModel(**config | changes).eval()
    islands = set(model._keep_in_fp32_modules)
    for name, parameter in model.named_parameters():
        if islands.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(TORCH_DTYPES[dtype])
    return model


def subject(dtype: str = "fp32", *, num_layers: int = 2, **options: Any) -> Subject:
    """Under the digest of the fp32 weights, as a folder of them would have in every dtype."""
    made = wan_dit.prepare(transformer(dtype, num_layers=num_layers), **{"profiles": (PROFILE,), **options})
    return with_digest(made, "sha256:tiny")


def with_digest(made: Subject, digest: str) -> Subject:
    from dataclasses import replace

    return replace(made, spec=replace(made.spec, weights_digest=digest))


def forwards(count: int = 3) -> list[Forward]:
    """Inputs of `count` steps from noise to clean: one clean frame, eight words of text, four of padding."""
    source = torch.Generator().manual_seed(7)
    made: list[tuple[Tensor, ...]] = []
    for step in range(count):
        latents = torch.randn(1, 4, 3, 4, 6, generator=source)
        timestep = torch.full((1, 3), 1000.0 - 300.0 * step)
        timestep[:, 0] = 0
        text, mask = torch.randn(1, 12, 16, generator=source), torch.zeros(1, 12)
        mask[:, 8:] = wan_dit.MASKED
        made.append((latents, timestep, text, mask))
    return made


def scales(*, num_layers: int = 2) -> Scales:
    return observe(subject(num_layers=num_layers), forwards())


def relative(value: Tensor, exact: Tensor) -> float:
    return float((value.double() - exact.double()).norm() / exact.double().norm())
