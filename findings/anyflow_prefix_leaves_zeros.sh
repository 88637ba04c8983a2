#!/usr/bin/env bash
# diffusers 0.42.1, AnyFlow-FAR: a video to go on from may have any 4 n + 1 frames, but a chunk of latents that it
# reaches counts as given as a whole. What lies between its end and the border of that chunk is never denoised: those
# latents stay zero, later chunks are made with them as their past, and they are decoded into the clip. With the
# chunks of the config (1, 3, 3, ...) only 1, 13, 25, ... frames leave none.
#
# Seen on 2026-12-01 (frames given, latents given, latents of the result that are all zero, counted from 0):
#   1 frames, 1 latents, zero: none
#   5 frames, 2 latents, zero: 2 3
#   13 frames, 4 latents, zero: none
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "diffusers==0.42.1" "transformers==5.23.0" \
  "torch==2.13.0" "numpy==2.3.5"

cat > "$work/prefix.py" <<'P'
import sys

import torch
from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AutoencoderKLWan,
    FlowMapEulerDiscreteScheduler,
)

torch.manual_seed(0)
model = AnyFlowFARTransformer3DModel(num_attention_heads=2, attention_head_dim=16, ffn_dim=32, num_layers=1,
                                     text_dim=8, freq_dim=16, in_channels=4, out_channels=4,
                                     compressed_patch_size=(1, 4, 4), rope_max_seq_len=64).eval()
vae = AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()
pipeline = AnyFlowFARPipeline(tokenizer=None, text_encoder=None, vae=vae, transformer=model,
                              scheduler=FlowMapEulerDiscreteScheduler(shift=5.0))
pipeline.set_progress_bar_config(disable=True)
frames = int(sys.argv[1])
latents = pipeline(prompt_embeds=torch.randn(1, 6, 8), video=torch.rand(1, frames, 3, 64, 64), height=64, width=64,
                   num_frames=81, num_inference_steps=2, guidance_scale=1.0, output_type="latent").frames
zero = [str(at) for at, latent in enumerate(latents.unbind(2)) if not latent.any()]
print(f"{frames} frames, {(frames - 1) // 4 + 1} latents, zero: {' '.join(zero) or 'none'}")
P

expect() { # frames given, what is told
  found=$("$work/venv/bin/python" "$work/prefix.py" "$1" 2> "$work/stderr" | tail -n 1) ||
    { cat "$work/stderr"; exit 1; }
  echo "$found"
  [ "$found" = "$2" ] || { echo "changed: $2 before"; exit 1; }
}
expect 1 "1 frames, 1 latents, zero: none"
expect 5 "5 frames, 2 latents, zero: 2 3"
expect 13 "13 frames, 4 latents, zero: none"
echo "as described"
