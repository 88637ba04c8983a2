#!/usr/bin/env bash
# torch 2.13.0 on a CPU: torch._int_mm, whose result type int32 promises exact sums, is wrong where the CPU has no
# VNNI instructions (AMD before Zen 4, Intel before Cascade Lake), without a warning. Here oneDNN is told to use
# AVX2, as it does by itself on such a CPU. Small values (up to 30) come out right; at the full range of int8, which
# per-token and per-channel quantization fills by design, every sum is wrong. At AVX512 with VNNI all are right.
#
# Seen on 2026-11-29, torch 2.13.0+cpu, Intel with avx512_vnni and amx, 64 x 1024 times 1024 x 64:
#   AVX2              range  30: 0 of 4096 wrong
#   AVX2              range 127: 4096 of 4096 wrong, by up to 134309
#   AVX512_CORE_VNNI  range 127: 0 of 4096 wrong
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.3.5"

cat > "$work/int_mm.py" <<'P'
import sys

import torch

torch.manual_seed(0)
largest = int(sys.argv[1])
x, w = (torch.randint(-largest, largest + 1, (64, 1024), dtype=torch.int8) for _ in range(2))
exact = x.long() @ w.long().t()
found = torch._int_mm(x, w.t()).long()
print(int((exact != found).sum()), int((exact - found).abs().max()))
P

seen() { # instructions of oneDNN, largest magnitude -> number of wrong sums, worst error
  ONEDNN_MAX_CPU_ISA=$1 "$work/venv/bin/python" "$work/int_mm.py" "$2"
}

small=$(seen AVX2 30)
full=$(seen AVX2 127)
echo "AVX2, range 30: $small; AVX2, range 127: $full"
[ "${small%% *}" = 0 ] || { echo "changed: small values are wrong too"; exit 1; }
[ "${full%% *}" -gt 4000 ] || { echo "changed: sums of the full range are right without VNNI"; exit 1; }
if grep -q avx512_vnni /proc/cpuinfo; then
  with=$(seen AVX512_CORE_VNNI 127)
  echo "AVX512 with VNNI, range 127: $with"
  [ "${with%% *}" = 0 ] || { echo "changed: wrong with VNNI as well"; exit 1; }
fi
echo "as described"
