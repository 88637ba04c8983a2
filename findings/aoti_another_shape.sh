#!/usr/bin/env bash
# torch 2.13.0: a package that AOTInductor compiled for one static shape takes tensors of another shape or dtype
# without an error. Kernels run over the sizes they were compiled for: of more rows than those the rest lacks what
# the kernels do (here the GELU between two linear layers), and a float64 tensor is read as float32 bits. Checks
# of the inputs are compiled in, but only with AOTI_RUNTIME_CHECK_INPUTS=1 in the environment are they made.
# Needs a C++ compiler.
#
# Seen on 2026-11-29, torch 2.13.0+cpu, compiled for x of 3 x 8 in float32:
#   3 x 8 float32                                  off by 1e-7
#   5 x 8 float32                                  the first three rows right, the last two off by 0.18 or more
#   3 x 8 float64, element-wise module             off by 1e34
#   5 x 8 float32, AOTI_RUNTIME_CHECK_INPUTS=1     RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.3.5" "setuptools==80.9.0"
export TORCHINDUCTOR_CACHE_DIR="$work/cache"

cat > "$work/compile.py" <<'P'
import sys

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(3, 8)
layers = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
torch.save(layers.state_dict(), f"{sys.argv[1]}/layers.pt")
with torch.no_grad():
    for name, module in (("layers", layers), ("elements", nn.Softplus())):
        program = torch.export.export(module, (x,))
        torch._inductor.aoti_compile_and_package(program, package_path=f"{sys.argv[1]}/{name}.pt2")
P
cat > "$work/call.py" <<'P'
import sys

import torch
from torch import nn

folder = sys.argv[1]
layers = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
layers.load_state_dict(torch.load(f"{folder}/layers.pt"))
package, elements = (torch._inductor.aoti_load_package(f"{folder}/{name}.pt2") for name in ("layers", "elements"))
generator = torch.Generator().manual_seed(1)
right, more = (torch.randn(rows, 8, generator=generator) for rows in (3, 5))
with torch.no_grad():
    print("right", float((package(right) - layers(right)).abs().max()))
    try:
        found = package(more)
    except RuntimeError as error:
        print("refused", type(error).__name__)
        sys.exit()
    gap = (found - layers(more)).abs()
    print("rows", float(gap[:3].max()), float(gap[3:].amax(dim=1).min()))
    wide = right.double() + 3
    print("float64", float((elements(wide).double() - nn.functional.softplus(wide)).abs().max()))
P

"$work/venv/bin/python" "$work/compile.py" "$work" 2> "$work/log" || { cat "$work/log"; exit 1; }
seen=$("$work/venv/bin/python" "$work/call.py" "$work" 2> /dev/null)
checked=$(AOTI_RUNTIME_CHECK_INPUTS=1 "$work/venv/bin/python" "$work/call.py" "$work" 2> /dev/null)
echo "$seen"
echo "with AOTI_RUNTIME_CHECK_INPUTS=1:"
echo "$checked"
awk '$1 == "right" { bad += $2 > 1e-5 } $1 == "rows" { bad += $2 > 1e-5 || $3 < 0.01 } $1 == "float64" { bad += $2 < 0.1 }
     END { exit bad > 0 || NR != 3 }' <<< "$seen" || { echo "changed: other values, or an error"; exit 1; }
grep -q "^refused" <<< "$checked" || { echo "changed: not refused with the check"; exit 1; }
echo "as described"
