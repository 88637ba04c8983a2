#!/usr/bin/env bash
# safetensors 0.8.0 writes the metadata of a file in the random order of a hash map, anew at every call: the same
# tensors with the same metadata of several entries are other bytes each time, also within one process. Tensors keep a
# fixed order. So whoever compares such files by digest (a cache, a manifest, a resumed or repeated run, a package
# mirror) finds them changed although nothing is. One entry, which may hold JSON, is written alike every time.
#
# Seen on 2026-11-30 (digests among 40 files, with four entries of metadata and with one): 19 and 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "safetensors==0.8.0" "numpy==2.3.5"

cat > "$work/order.py" <<'P'
import hashlib

import numpy as np
from safetensors.numpy import save

tensors = {name: np.arange(4, dtype=np.float32) for name in ("b", "a", "c")}


def digests(metadata):
    return len({hashlib.sha256(save(tensors, metadata=metadata)).hexdigest() for _ in range(40)})


many, one = digests({"format": "pt", "a": "1", "b": "2", "c": "3"}), digests({"all": '{"a": 1, "b": 2}'})
print(f"{many} and {one}")
assert many > 1 and one == 1, "changed"
P
"$work/venv/bin/python" "$work/order.py" 2> "$work/stderr" || { cat "$work/stderr"; exit 1; }
echo "as described"
