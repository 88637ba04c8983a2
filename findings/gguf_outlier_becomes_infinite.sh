#!/usr/bin/env bash
# diffusers 0.42.1: weights of a quantized GGUF file are dequantized in fp16, whatever the compute dtype of the model,
# so a weight beyond 65504 is infinite before it is cast to bf16 or fp32: Q8_0, Q4_0, Q5_1 and the K types alike. The
# file holds it (a scale of fp16 times a code of up to 127 reaches 8e6), and the gguf package hands it out whole.
# Read a GGUF tensor with such a weight and ask whether all of it is finite.
#
# Seen on 2026-11-30 (a weight of 1e5 among ones, type: what diffusers hands out; what gguf does):
#   Q8_0: float16 inf; 100012.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "diffusers==0.42.1" "gguf==0.19.0" \
  "accelerate==1.15.0" "torch==2.13.0" "numpy==2.3.5"

cat > "$work/read.py" <<'P'
import gguf
import numpy as np
import torch
from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

kind = gguf.GGMLQuantizationType.Q8_0
values = np.ones((1, 256), np.float32)
values[0, 3] = 1e5
blocks = gguf.quantize(values, kind)
found = dequantize_gguf_tensor(GGUFParameter(torch.from_numpy(blocks), quant_type=kind))
print(str(found.dtype).removeprefix("torch."), found[0, 3].item(), gguf.dequantize(blocks, kind)[0, 3])
P

found=$("$work/venv/bin/python" "$work/read.py" 2> "$work/stderr") || { cat "$work/stderr"; exit 1; }
echo "Q8_0: $found"
[ "$found" = "float16 inf 100012.5" ] || { echo "changed: float16 inf 100012.5 before"; exit 1; }
echo "as described"
