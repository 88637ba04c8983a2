"""Calibration of FP8 convolutions on a small autoencoder of random weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan

from bench.quality import vae_calibration
from engine.autoencoder.fp8_conv import fp8_convolutions

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    """Of the decoder two levels are wide enough."""
    torch.manual_seed(0)
    small = {"base_dim": 8, "z_dim": 4, "num_res_blocks": 1}
    statistics = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    return AutoencoderKLWan(**small, **statistics).eval().requires_grad_(False)


def test_each_alone_and_all_together(vae: AutoencoderKLWan) -> None:
    pixels = vae_calibration.clips(2, 5, 16, 24)
    assert pixels.shape == (2, 3, 5, 16, 24) and pixels.std() > 0.05 and -1 <= pixels.min() < 0
    said: list[str] = []
    chosen, kept_db, rows = vae_calibration.measure(vae, pixels, 20.0, said.append)
    known = fp8_convolutions(vae)
    possible = [name for name, reason in known.items() if reason is None]
    assert sorted(chosen) == sorted(possible) and 20.0 < kept_db < 90.0
    by_name = {row["name"]: row for row in rows}
    assert set(known) < set(by_name) and len(said) == len(possible) + 2
    assert by_name["0 convolutions"]["psnr_db"] > 100 and "library" not in by_name
    assert all(by_name[name]["chosen"] and by_name[name]["psnr_db"] > kept_db for name in possible)
    # two latent frames of 2 x 3
    assert by_name["decoder.mid_block.resnets.0.conv1"]["multiplications"] == 32 * 32 * 27 * 2 * 2 * 3
    none, base_db, rows = vae_calibration.measure(vae, pixels, 200.0, said.append)
    assert none == [] and base_db > 100 and f"{len(possible)} convolutions" in {row["name"] for row in rows}


def test_wrong_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert vae_calibration.main(["--frames", "16"]) == 2
    assert vae_calibration.main(["--width", "100"]) == 2
    told = capsys.readouterr().err
    assert "--frames 16 is not 4 k + 1" in told and "100 x 128 pixels are no multiples of 16" in told
