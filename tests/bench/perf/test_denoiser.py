"""Which kernels are timed one by one: those that the denoiser chose, also where it was left to choose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.perf.denoiser import resolved
from engine.settings.presets import PRESETS

OPEN = replace(PRESETS["fast"], linear="auto", quantized_attention=("auto",))


@pytest.mark.parametrize(
    ("notes", "linear", "attention", "quantized"),
    [
        (
            {
                "linear": "fp8: 240 layers, 2700 to 1400 MiB",
                "attention": "fa3 (sdpa_cudnn: slower)",
                "quantized_attention": "fa3_fp8, where the policy admits it: 80 % of blocks and noise levels",
            },
            "fp8",
            ("fa3",),
            ("fa3_fp8",),
        ),
        (
            {
                "linear": "bf16",
                "attention": "sdpa_flash",
                "quantized_attention": "none: no 8-bit kernel is faster here than sdpa_flash",
            },
            "bf16",
            ("sdpa_flash",),
            (),
        ),
        ({"linear": "bf16: too few blocks", "quantized_attention": "off"}, "bf16", OPEN.attention, ()),
    ],
)
def test_what_auto_became_is_timed(
    notes: dict[str, str], linear: str, attention: tuple[str, ...], quantized: tuple[str, ...]
) -> None:
    found = resolved(OPEN, notes)
    assert (found.linear, found.attention, found.quantized_attention) == (linear, attention, quantized)
