#!/usr/bin/env bash
# diffusers 0.42.1, FlowMatchEulerDiscreteScheduler: one shift, three grids. The constructor shifts the least noise of
# training, and set_timesteps shifts it again, so that the last step begins higher up (diffusers issue 13243); set_shift
# on a scheduler of shift 1 shifts once; on one of shift 3 the end is shifted by both. And set_shift does not reach the
# config: a scheduler made of that (from_config, or from_pretrained of a saved pipeline) has the shift of before.
# (timesteps= beside no sigmas makes a fourth, of which the library warns.)
#
# Seen on 2026-12-01 (timesteps of four steps at shift 5):
#   constructor: 1000.0 909.7 717.3 24.4
#   set_shift: 1000.0 909.2 714.9 5.0
#   set_shift after 3: 1000.0 909.5 716.1 14.8
#   config after set_shift: 1000.0 667.0 334.0 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "diffusers==0.42.1" "transformers==5.23.0" \
  "torch==2.13.0" "numpy==2.3.5"

cat > "$work/grids.py" <<'P'
from diffusers import FlowMatchEulerDiscreteScheduler


def shifted(*before):
    scheduler = FlowMatchEulerDiscreteScheduler(*before)
    scheduler.set_shift(5.0)
    return scheduler


def told(name, scheduler):
    scheduler.set_timesteps(4)
    print(f"{name}:", *(f"{timestep:.1f}" for timestep in scheduler.timesteps.tolist()))


told("constructor", FlowMatchEulerDiscreteScheduler(shift=5.0))
told("set_shift", shifted())
told("set_shift after 3", shifted(1000, 3.0))
told("config after set_shift", FlowMatchEulerDiscreteScheduler.from_config(shifted().config))
P

cat > "$work/expected" <<'P'
constructor: 1000.0 909.7 717.3 24.4
set_shift: 1000.0 909.2 714.9 5.0
set_shift after 3: 1000.0 909.5 716.1 14.8
config after set_shift: 1000.0 667.0 334.0 1.0
P
"$work/venv/bin/python" "$work/grids.py" > "$work/found" 2> "$work/stderr" || { cat "$work/stderr"; exit 1; }
cat "$work/found"
diff "$work/expected" "$work/found" || { echo "changed"; exit 1; }
echo "as described"
