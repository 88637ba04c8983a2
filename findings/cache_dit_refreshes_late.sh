#!/usr/bin/env bash
# cache-dit 1.5.3, enable_cache on a transformer without a pipeline, num_inference_steps set: the context is renewed
# when a forward begins at or behind that step, and the step is counted inside the forward. So the first forward of
# the next take is still one of the take before: it may reuse that take's residual, whatever it shows, and with
# enable_separate_cfg the calls behind it are counted anew, which exchanges the branches. refresh_context before
# each take avoids it. Compare the forwards of a take that follows another one with those of the same take alone.
#
# Seen on 2026-11-30 (two steps, each unconditional then conditional):
#   after another: differs same differs same; refreshed: same same same same
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "cache-dit==1.5.3" "diffusers==0.42.1" \
  "transformers==5.23.0" "torch==2.13.0" "numpy==2.3.5"

cat > "$work/takes.py" <<'P'
import sys

import cache_dit
import torch
from diffusers import WanTransformer3DModel


def made():
    torch.manual_seed(0)
    model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=16, ffn_dim=32, num_layers=4,
                                  text_dim=8, freq_dim=16, in_channels=4, out_channels=4).eval()
    settings = cache_dit.DBCacheConfig(Fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=100.0,
                                       num_inference_steps=2, enable_separate_cfg=True)
    cache_dit.enable_cache(model, cache_config=settings)
    return model


@torch.no_grad()
def take(model, seed):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 4, 2, 8, 8, generator=generator)
    texts = torch.randn(2, 1, 6, 8, generator=generator)
    return [model(hidden_states=latents * share, timestep=torch.tensor([1000.0 * share]),
                  encoder_hidden_states=text, return_dict=False)[0]
            for share in (1.0, 0.5) for text in texts]


alone, second = take(made(), 2), made()
take(second, 1)
if sys.argv[1] == "refreshed":
    cache_dit.refresh_context(second, num_inference_steps=2)
print(*("same" if torch.equal(x, y) else "differs" for x, y in zip(alone, take(second, 2))))
P

expect() { # how, what of each forward
  found=$("$work/venv/bin/python" "$work/takes.py" "$1" 2> "$work/stderr" | tail -n 1) ||
    { cat "$work/stderr"; exit 1; }
  echo "$1 -> $found"
  [ "$found" = "$2" ] || { echo "changed: $2 before"; exit 1; }
}
expect after-another "differs same differs same"
expect refreshed "same same same same"
echo "as described"
