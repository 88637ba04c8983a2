#!/usr/bin/env bash
# torch 2.13.0: of its cache of compiled code a graph that lost its end, as after a power cut, is compiled again
# with a warning; a generated Python file or a shared library that lost its end is run into, and the same program
# fails at every start until someone deletes the cache. Writes are atomic but not synchronized, and a file that
# exists is taken for whole. Needs a C++ compiler.
#
# Seen on 2026-11-29, torch 2.13.0+cpu, each kind of file halved in a cache that worked:
#   fxgraph/, aotautograd/   compiled again
#   *.py                     BackendCompilerFailed (SyntaxError)
#   *.so                     an error of the loader
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.3.5" "setuptools==80.9.0"

cat > "$work/run.py" <<'P'
import torch
from torch import nn

torch.manual_seed(0)
layers = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)).eval()
x = torch.randn(3, 64)
with torch.no_grad():
    print(float((torch.compile(layers, fullgraph=True, dynamic=False)(x) - layers(x)).abs().max()) < 1e-4)
P
run() {
    TORCHINDUCTOR_CACHE_DIR="$work/cache" "$work/venv/bin/python" "$work/run.py" 2> "$work/log" || echo failed
}
halve() {
    local file
    while read -r file; do truncate -s $(($(stat -c %s "$file") / 2)) "$file"; done
}
fresh() {
    rm -rf "$work/cache"
    [ "$(run)" = True ] && [ "$(run)" = True ] || { echo "changed: a whole cache fails"; cat "$work/log"; exit 1; }
}
changed=0
check() { # what was halved, what is expected, what was seen
    echo "$1: $3"
    [ "$2" = "$3" ] || changed=1
}
fresh
find "$work/cache/fxgraph" "$work/cache/aotautograd" -type f | halve
check "graphs" True "$(run)"
fresh
find "$work/cache" -name "*.py" | halve
check "Python files" failed "$(run)"
check "Python files, the next start" failed "$(run)"
fresh
find "$work/cache" -name "*.so" | halve
check "libraries" failed "$(run)"
[ "$changed" = 0 ] || { echo "changed"; exit 1; }
echo "as described"
