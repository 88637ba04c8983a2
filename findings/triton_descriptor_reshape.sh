#!/usr/bin/env bash
# triton 3.6.0 and 3.9.0, compiled for compute capability 9.0: an operand of tl.dot that a tensor descriptor loads as a
# tile of two dims goes from shared memory to the tensor cores. Loaded as [1, 8, 16, 128] and reshaped to [128, 128],
# which moves nothing in memory, it is first read into registers (ttg.local_load inside the loop) and multiplied from
# there, though the documents of reshape say nothing of it. A convolution whose tiles are rectangles of pixels, for which
# the descriptor would supply the zeros around a picture, pays for that in every step; runs of pixels do not.
#
# Seen on 2026-11-30 (ttg.local_load in the compiled loop, two dims and four): 0 and 1 in both versions. No GPU is needed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"

cat > "$work/reshaped.py" <<'P'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def two_dims(a, b, out, steps):
    row, column = tl.arange(0, 128), tl.arange(0, 128)
    acc = tl.zeros((128, 128), dtype=tl.float32)
    for step in range(steps):
        acc = tl.dot(a.load([0, step * 128]), b.load([0, step * 128]).T, acc)
    tl.store(out + row[:, None] * 128 + column[None, :], acc)


@triton.jit
def four_dims(a, b, out, steps):
    row, column = tl.arange(0, 128), tl.arange(0, 128)
    acc = tl.zeros((128, 128), dtype=tl.float32)
    for step in range(steps):
        tile = a.load([0, 0, 0, step * 128]).reshape(128, 128)
        acc = tl.dot(tile, b.load([0, step * 128]).T, acc)
    tl.store(out + row[:, None] * 128 + column[None, :], acc)


def loads(kernel, shape):
    tile = "fp8e4nv[128, 128]"
    signature = {"a": f"tensordesc<fp8e4nv{shape}>", "b": f"tensordesc<{tile}>", "out": "*fp32", "steps": "i32"}
    compiled = triton.compile(ASTSource(kernel, signature), target=GPUTarget("cuda", 90, 32))
    text = compiled.asm["ttgir"]
    assert "wgmma" in compiled.asm["ptx"] and "scf.for" in text
    return text.count("ttg.local_load")


found = loads(two_dims, [128, 128]), loads(four_dims, [1, 8, 16, 128])
print(triton.__version__, "ttg.local_load: {} and {}".format(*found))
assert found[0] == 0 < found[1], "changed"
P
for version in 3.6.0 3.9.0; do
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check "triton==$version"
  TRITON_CACHE_DIR="$work/cache" "$work/venv/bin/python" "$work/reshaped.py" 2> "$work/stderr" ||
    { cat "$work/stderr"; exit 1; }
done
echo "as described"
