#!/usr/bin/env bash
# torch, casting to float8_e4m3fn what is beyond its largest value 448: torch 2.11 gives NaN from 465 on, torch 2.13
# gives 448, infinity included. So an upgrade makes another model: an overflow that showed as NaN is now a finite 448,
# and a check for NaN behind the cast sees nothing. Triton's interpreter (3.9), with which kernels are tested where
# there is no GPU, makes 464 NaN, and 500 and infinity 256, while the same kernel on a GPU saturates at 448. Clamp
# before the cast, always; look for overflow before it, not for NaN behind it.
#
# Seen on 2026-11-29, on a CPU (torch 2.11 eager on an H200 too), values 448, 464, 465, 500, inf, -inf:
#   torch 2.11                    448 448 nan nan nan nan
#   torch 2.13                    448 448 448 448 448 -448
#   Triton 3.9, its interpreter   448 nan nan 256 256 -256
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/torch_cast.py" <<'P'
import torch

x = torch.tensor([448.0, 464.0, 465.0, 500.0, float("inf"), float("-inf")])
print(*(f"{value:g}" for value in x.to(torch.float8_e4m3fn).float().tolist()))
P

cat > "$work/triton_cast.py" <<'P'
import torch
import triton
import triton.language as tl


@triton.jit
def kernel(x_ptr, y_ptr):
    place = tl.arange(0, 8)
    tl.store(y_ptr + place, tl.load(x_ptr + place).to(tl.float8e4nv))


x = torch.tensor([448.0, 464.0, 465.0, 500.0, float("inf"), float("-inf"), 0.0, 0.0])
y = torch.empty(8, dtype=torch.float8_e4m3fn)
kernel[(1,)](x, y)
print(*(f"{value:g}" for value in y.float().tolist()[:6]))
P

environment() { # name, packages
  python3 -m venv "$work/$1"
  "$work/$1/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
}
expect() { # name, what it printed before, command
  found=$("${@:3}" 2> "$work/stderr") || { cat "$work/stderr"; exit 1; }
  echo "$1: $found"
  [ "$found" = "$2" ] || { echo "changed: $2 before"; exit 1; }
}
environment old "torch==2.11.0" "numpy==2.3.5"
environment new "torch==2.13.0" "numpy==2.3.5" "triton==3.9.0"
export TRITON_INTERPRET=1
expect "torch 2.11" "448 448 nan nan nan nan" "$work/old/bin/python" "$work/torch_cast.py"
expect "torch 2.13" "448 448 448 448 448 -448" "$work/new/bin/python" "$work/torch_cast.py"
expect "Triton 3.9, its interpreter" "448 nan nan 256 256 -256" "$work/new/bin/python" "$work/triton_cast.py"
echo "as described"
