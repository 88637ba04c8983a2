#!/usr/bin/env bash
# diffusers 0.42.1, AutoencoderKLWan with tiling: strides are given in pixels and rounded down to latents on one side
# only. Decoding, a tile is made from latents at the rounded stride and put where the unrounded one is: of 100 pixels,
# each tile is off by 4 pixels more than the one before it. Encoding, tiles are cut at the unrounded stride and keep
# the rounded number of latents: the latents are fewer. Nothing is said. Strides that are a multiple of 8 (of 16 where
# the autoencoder patches its pixels, as that of Wan 2.2 5B) avoid it.
#
# Seen on 2026-12-01 (tiles of 128; pixels by which the decoded picture is displaced 64 pixels behind the start of its
# first, second and third tile; latents a side of a picture that has 40):
#   96 -> 0 0 0, 40 latents
#   100 -> 0 4 8, 38 latents
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "diffusers==0.42.1" "transformers==5.23.0" \
  "torch==2.13.0" "numpy==2.3.5"

cat > "$work/tiles.py" <<'P'
import sys

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan

torch.manual_seed(0)
vae = AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()
latents = F.interpolate(torch.randn(1, 4, 1, 10, 10), size=(1, 40, 40), mode="trilinear")
stride, width = int(sys.argv[1]), 24


def displacement(picture, reference, at):
    patch = picture[..., at : at + width, at : at + width]
    moved = {by: reference[..., at - by : at - by + width, at - by : at - by + width] for by in range(17)}
    return min(moved, key=lambda by: (moved[by] - patch).norm().item())


with torch.no_grad():
    whole = vae.decode(latents).sample
    vae.enable_tiling(128, 128, stride, stride)
    tiled = vae.decode(latents).sample
    encoded = vae.encode(torch.randn(1, 3, 1, 320, 320)).latent_dist.mode()
assert tiled.shape == whole.shape
print(*(displacement(tiled, whole, tile * stride + 64) for tile in range(3)), end=f", {encoded.shape[-1]} latents\n")
P

expect() { # stride, displacements and latents
  found=$("$work/venv/bin/python" "$work/tiles.py" "$1" 2> "$work/stderr" | tail -n 1) ||
    { cat "$work/stderr"; exit 1; }
  echo "$1 -> $found"
  [ "$found" = "$2" ] || { echo "changed: $2 before"; exit 1; }
}
expect 96 "0 0 0, 40 latents"
expect 100 "0 4 8, 38 latents"
echo "as described"
