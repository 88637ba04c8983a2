#!/usr/bin/env bash
# diffusers 0.42.1: load_lora_weights of a Wan LoRA in its trainers' own names goes through a conversion that keeps
# the low-rank pairs and drops the other tensors of the file: changes of whole weights (q.diff, k.diff, ffn.0.diff),
# of norms (norm_k.diff, norm3.diff), of the modulation, and names that it does not know at all. No error, no warning:
# the adapter is loaded, and is another one. A few (head.head.diff, text_embedding.0.diff) end in a KeyError that
# names neither the file nor the reason. Compare the tensors that went in with those that came out.
#
# Seen on 2026-11-29 (one tensor added to a complete LoRA of one block -> tensors added to the result):
#   self_attn.k.diff 0, self_attn.norm_k.diff 0, norm3.diff 0, norm3.diff_b 0, modulation.diff 0, ffn.0.diff 0,
#   unknown.diff 0; self_attn.k.diff_b 1; head.head.diff KeyError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "diffusers==0.42.1" "transformers==5.23.0" \
  "torch==2.13.0" "numpy==2.3.5"

cat > "$work/convert.py" <<'P'
import sys

import torch
from diffusers import WanPipeline  # needs transformers
from safetensors.torch import save_file

names = [f"{attention}.{linear}" for attention in ("self_attn", "cross_attn") for linear in "qkvo"]
tensors = {}
for name in [*names, "ffn.0", "ffn.2"]:
    tensors[f"diffusion_model.blocks.0.{name}.lora_down.weight"] = torch.ones(2, 4)
    tensors[f"diffusion_model.blocks.0.{name}.lora_up.weight"] = torch.ones(4, 2)


def num_converted(extra):
    save_file(tensors | extra, sys.argv[1])
    return len(WanPipeline.lora_state_dict(sys.argv[1]))


before = num_converted({})
assert before == len(tensors)
try:
    print(num_converted({f"diffusion_model.{sys.argv[2]}": torch.ones(4, 4)}) - before)
except KeyError:
    print("KeyError")
P

expect() { # a tensor of the file, how many more come out
  found=$("$work/venv/bin/python" "$work/convert.py" "$work/lora.safetensors" "$1" 2> "$work/stderr") ||
    { cat "$work/stderr"; exit 1; }
  echo "$1 -> $found"
  [ "$found" = "$2" ] || { echo "changed: $2 before"; exit 1; }
}
for name in self_attn.k.diff self_attn.norm_k.diff norm3.diff norm3.diff_b modulation ffn.0.diff unknown.diff; do
  expect "blocks.0.${name/modulation/modulation.diff}" 0
done
expect blocks.0.self_attn.k.diff_b 1
expect head.head.diff KeyError
echo "as described"
