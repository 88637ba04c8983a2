"""The adapter on stand-ins with modelopt's attributes; modelopt itself is not installed and was not run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_export import forwards, relative, scales, subject, transformer
from torch import nn

from export.modelopt_scales import scales_from_modelopt
from export.quantize import quantize
from export.scales import require_scales
from export.spec import ExportError

FIRST = "blocks.0.attn1"


def calibrated(*, smooth: bool = False, attention: bool = False) -> nn.Module:
    """A Wan transformer with quantizers as modelopt leaves them after calibration."""
    module = transformer()
    ours = scales()
    for group in subject().groups:
        for name in group.linears:
            linear = module.get_submodule(name.removeprefix("transformer."))
            factor = 1 / ours.input_amax[group.name].clamp(min=1e-3).sqrt() if smooth else None
            amax = ours.input_amax[group.name] * (1.0 if factor is None else factor)
            linear.input_quantizer = SimpleNamespace(amax=amax.amax(), pre_quant_scale=factor)
    if attention:
        for name, amax in ours.attention_amax.items():
            path = name.removeprefix("transformer.").removesuffix(".processor.core")
            for letter, value in zip("qkv", amax, strict=True):
                setattr(module.get_submodule(path), f"{letter}_bmm_quantizer", SimpleNamespace(amax=value))
    return module


def test_plain_magnitudes() -> None:
    found = scales_from_modelopt(subject(), calibrated(attention=True), num_forwards=3)
    ours = scales()
    require_scales(found, subject(), "fp8-attention")
    assert found.producer == "nvidia-modelopt" and not found.smoothing
    for name, amax in found.input_amax.items():
        assert torch.equal(amax, ours.input_amax[name].amax().expand_as(amax))
    for name, amax in found.attention_amax.items():
        assert torch.equal(amax, ours.attention_amax[name])
    with torch.no_grad():
        one, two = (
            quantize(subject(), "fp8-attention", given).module(*forwards(1)[0]) for given in (found, ours)
        )
    assert torch.equal(one, two)  # one scale per tensor needs the largest magnitude only


def test_smoothing_is_shared_by_a_group() -> None:
    module = calibrated(smooth=True)
    for name, factor in (("to_q", 2.0), ("to_k", 0.5)):
        quantizer = module.get_submodule(f"{FIRST}.{name}").input_quantizer
        quantizer.pre_quant_scale = quantizer.pre_quant_scale * factor
        quantizer.amax = quantizer.amax * factor
    found = scales_from_modelopt(subject(), module, num_forwards=1)
    third = module.get_submodule(f"{FIRST}.to_v").input_quantizer
    torch.testing.assert_close(found.smoothing["transformer.blocks.0.attn1.qkv"], third.pre_quant_scale)
    with torch.no_grad():
        exact = subject().module(*forwards(1)[0])
        error = relative(quantize(subject(), "int8", found).module(*forwards(1)[0]), exact)
    assert 0 < error < 0.03


def test_incomplete_calibration_is_refused() -> None:
    module = calibrated()
    linear = module.get_submodule(f"{FIRST}.to_k")
    linear.input_quantizer.amax = None
    with pytest.raises(ExportError, match="saw no forward"):
        scales_from_modelopt(subject(), module, num_forwards=1)
    del linear.input_quantizer
    with pytest.raises(ExportError, match=r"attn1\.to_k has no input_quantizer"):
        scales_from_modelopt(subject(), module, num_forwards=1)
    half = calibrated(smooth=True)
    half.get_submodule(f"{FIRST}.to_k").input_quantizer.pre_quant_scale = None
    with pytest.raises(ExportError, match="2 smoothing factors for 3"):
        scales_from_modelopt(subject(), half, num_forwards=1)
