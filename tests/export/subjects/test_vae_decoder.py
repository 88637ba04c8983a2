"""One pass over a fixed number of latent frames gives the library's pixels, in torch and as a graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_export import relative
from tiny_wan import build_autoencoder

from engine.autoencoder.vae import denormalise
from export.quantization.quantize import quantize
from export.spec import ExportError, Profile
from export.subjects import vae_decoder
from export.targets import onnx as target

PROFILE = Profile(name="tiny", sizes={"B": 1, "F": 2, "h": 4, "w": 4})


@pytest.mark.parametrize("residual", [False, True])
def test_equals_the_library(residual: bool) -> None:
    torch.manual_seed(0)
    vae = build_autoencoder(residual=residual)
    prepared = vae_decoder.prepare(vae, profiles=(PROFILE,))
    latents = torch.randn(1, 4, 2, 4, 4)
    with torch.no_grad():
        wanted = vae.decode(denormalise(vae, latents), return_dict=False)[0]
        pixels = prepared.module(latents)
    torch.testing.assert_close(pixels, wanted, rtol=1e-4, atol=1e-5)
    assert pixels.shape == prepared.spec.outputs[0].shape(prepared.spec.profiles[0].sizes)


@pytest.mark.slow
def test_folder_to_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build_autoencoder().save_pretrained(tmp_path / "vae")
    prepared = vae_decoder.prepare(tmp_path, profiles=(PROFILE,), dtype="fp16")
    assert prepared.module.vae.post_quant_conv.weight.dtype == torch.float16
    exact = vae_decoder.prepare(tmp_path / "vae", profiles=(PROFILE,), dtype="fp32")
    target.build(prepared, "fp16", tmp_path / "o")
    pixels = target.load_module(tmp_path / "o")({"latents": exact.inputs[0]})["pixels"]
    with torch.no_grad():
        error = relative(pixels, exact.module(*exact.inputs))
    assert 0 < error <= exact.spec.tolerance_of("fp16").relative, error


def test_refusals(tmp_path: Path) -> None:
    vae = build_autoencoder()
    with pytest.raises(ExportError, match="exactly one size"):
        vae_decoder.prepare(vae, profiles=(Profile(name="p", sizes={"B": 1, "F": 3}),))
    with pytest.raises(ExportError, match="cannot be exported as fp8"):
        quantize(vae_decoder.prepare(vae, profiles=(PROFILE,)), "fp8")
    with pytest.raises(ExportError, match="neither config"):
        vae_decoder.prepare(tmp_path, profiles=(PROFILE,))
