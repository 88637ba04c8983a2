#!/usr/bin/env bash
# diffusers 0.42.1: set_attention_backend of one model also sets the backend of the process. Every other model that has
# none of its own, loaded before or later, runs with it too (diffusers issue 14249), and reset_attention_backend, after
# which its docstring has the environment's default used again, leaves it, for that model too: of two that are compared
# in one process, the plain one runs the other's kernel. The context manager attention_backend sets back what it set.
#
# Seen on 2026-12-01 (the attention that a second model calls):
#   at first: flash; first model set: math; first model reset: math; in a context of native: flash; behind it: math
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "diffusers==0.42.1" "transformers==5.23.0" \
  "torch==2.13.0" "numpy==2.3.5"

cat > "$work/two_models.py" <<'P'
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import attention_backend
from torch.utils._python_dispatch import TorchDispatchMode

first, second = (
    WanTransformer3DModel(num_attention_heads=2, attention_head_dim=16, ffn_dim=32, num_layers=1, text_dim=8,
                          freq_dim=16, in_channels=4, out_channels=4).eval()
    for _ in range(2)
)


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        self.names.append(str(call))
        return call(*args, **(kwargs or {}))


@torch.no_grad()
def kernel_of_second():
    with Calls() as calls:
        second(torch.randn(1, 4, 2, 8, 8), torch.tensor([1.0]), torch.randn(1, 6, 8))
    return "flash" if any("flash_attention" in name for name in calls.names) else "math"


found = [f"at first: {kernel_of_second()}"]
first.set_attention_backend("_native_math")
found.append(f"first model set: {kernel_of_second()}")
first.reset_attention_backend()
found.append(f"first model reset: {kernel_of_second()}")
with attention_backend("native"):
    found.append(f"in a context of native: {kernel_of_second()}")
print("; ".join([*found, f"behind it: {kernel_of_second()}"]))
P

expected="at first: flash; first model set: math; first model reset: math; in a context of native: flash"
expected+="; behind it: math"
found=$("$work/venv/bin/python" "$work/two_models.py" 2> "$work/stderr" | tail -n 1) ||
  { cat "$work/stderr"; exit 1; }
echo "$found"
[ "$found" = "$expected" ] || { echo "changed: $expected before"; exit 1; }
echo "as described"
