#!/usr/bin/env bash
# diffusers 0.42.1, WanPipeline with two transformers (Wan 2.2 A14B): whether there is guidance at all is decided once,
# by guidance_scale > 1, and guidance_scale_2 is only the factor of what that switched on. So guidance for the low-noise
# transformer alone (1 and 4: a distilled high-noise expert beside a plain one) is none: no call sees the negative
# prompt, and no scale of the second changes anything. A first scale of 1.0001 switches it on. The other way around
# (4 and 1) both still run twice a step.
#
# Seen on 2026-12-01 (calls of each transformer, of two steps each; "guided" where the second scale changes the take):
#   1.0 and 4.0 -> 2 2 not guided; 1.0001 and 4.0 -> 4 4 guided
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "diffusers==0.42.1" "transformers==5.23.0" \
  "torch==2.13.0" "numpy==2.3.5"

cat > "$work/takes.py" <<'P'
import sys

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

calls = []


def made(seed):
    torch.manual_seed(seed)
    model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=16, ffn_dim=32, num_layers=1, text_dim=8,
                                  freq_dim=16, in_channels=4, out_channels=4).eval()
    model.register_forward_pre_hook(lambda *_: calls.append(seed))
    return model


vae = AutoencoderKLWan(base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
pipeline = WanPipeline(tokenizer=None, text_encoder=None, vae=vae, scheduler=scheduler, transformer=made(0),
                       transformer_2=made(1), boundary_ratio=0.9)
pipeline.set_progress_bar_config(disable=True)
text, negative = torch.randn(2, 1, 6, 8)
latents = torch.randn(1, 4, 2, 8, 8)


def take(first, second):
    return pipeline(prompt_embeds=text, negative_prompt_embeds=negative, height=64, width=64, num_frames=5,
                    num_inference_steps=4, guidance_scale=first, guidance_scale_2=second, latents=latents.clone(),
                    output_type="latent").frames


first, second = (float(scale) for scale in sys.argv[1:])
found = take(first, second)
counts = f"{calls.count(0)} {calls.count(1)}"
print(counts, "not guided" if torch.equal(found, take(first, 1.0)) else "guided")
P

expect() { # scales of both, calls of each and whether the second was guided
  found=$("$work/venv/bin/python" "$work/takes.py" "$1" "$2" 2> "$work/stderr" | tail -n 1) ||
    { cat "$work/stderr"; exit 1; }
  echo "$1 and $2 -> $found"
  [ "$found" = "$3" ] || { echo "changed: $3 before"; exit 1; }
}
expect 1.0 4.0 "2 2 not guided"
expect 1.0001 4.0 "4 4 guided"
echo "as described"
