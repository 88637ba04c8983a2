#!/usr/bin/env bash
# diffusers 0.42.1: the causal attention of AnyFlow-FAR fills queries, keys and values with zeros up to a multiple of
# 128 tokens. While it fills its cache a mask hides the zeros; while it denoises (_forward_inference) it passes no mask,
# so that every token also looks at keys of zeros, whose scores are 0 and whose values are nothing: the softmax gives
# them a share. How many there are follows from the size of the picture (480 x 832 pixels and chunks of three latent
# frames: 4680 tokens, 56 zeros), so that another size is another model. An own forward that computes what the
# architecture says is therefore not what the published pipeline runs.
#
# Seen on 2026-11-30 (12 tokens; largest difference of the module's output to attention over 12 keys, and to
# attention over 12 keys and 116 of zeros): 0.33 and 0.0000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "diffusers==0.42.1" "transformers==5.23.0" \
  "torch==2.13.0" "numpy==2.3.5"

cat > "$work/zeros.py" <<'P'
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowAttention, AnyFlowCausalAttnProcessor

torch.manual_seed(0)
attention = AnyFlowAttention(32, heads=2, dim_head=16, processor=AnyFlowCausalAttnProcessor()).eval()
x = torch.randn(1, 12, 32)


def plain(num_zeros):
    q, k = attention.norm_q(attention.to_q(x)), attention.norm_k(attention.to_k(x))
    q, k, v = (t.unflatten(2, (2, 16)).transpose(1, 2) for t in (q, k, attention.to_v(x)))
    k, v = (F.pad(t, (0, 0, 0, num_zeros)) for t in (k, v))
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return attention.to_out[0](out)


with torch.no_grad():
    found = attention(x)  # without a mask, as _forward_inference calls it
    of_tokens, with_zeros = ((found - plain(n)).abs().max().item() for n in (0, 128 - 12))
print(f"{of_tokens:.2f} and {with_zeros:.4f}")
assert of_tokens > 0.01 and with_zeros < 1e-5, "changed"
P
"$work/venv/bin/python" "$work/zeros.py" 2> "$work/stderr" || { cat "$work/stderr"; exit 1; }
echo "as described"
