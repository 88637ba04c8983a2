#!/usr/bin/env bash
# diffusers 0.42.1: a UniPCMultistepScheduler with use_karras_sigmas=True and use_flow_sigmas=True, as the published
# Cosmos3 folders have it, takes Karras' levels and reads no flow_shift: setting it changes nothing, without a word.
# The levels end at sigma_min / (1 + sigma_min) of noise, and of 50 steps two have the same whole timestep.
# Only use_karras_sigmas=False beside flow_shift gives the shifted levels; with the levels of NVIDIA's own sampler,
# set_timesteps(sigmas=linspace(1 - 1/1000, 0, n + 1)[:-1]).
#
# Seen on 2026-11-30, diffusers 0.42.1:
#   karras, shift 1 against shift 5: equal, True
#   karras, last level 0.128, shifted 0.097
#   timesteps of 50 steps that are there twice: 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.3.5" "diffusers==0.42.1"

"$work/venv/bin/python" - <<'P'
import numpy as np
from diffusers import UniPCMultistepScheduler

published = {
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "sigma_max": 200.0,
    "sigma_min": 0.147,
}
levels = {}
for karras in (True, False):
    for shift in (1.0, 5.0):
        scheduler = UniPCMultistepScheduler(**published, use_karras_sigmas=karras, flow_shift=shift)
        scheduler.set_timesteps(50)
        levels[karras, shift] = np.array(scheduler.sigmas[:-1])
        if karras and shift == 5.0:
            times = [int(time) for time in scheduler.timesteps]
same = bool(np.array_equal(levels[True, 1.0], levels[True, 5.0]))
twice = len(times) - len(set(times))
print("karras, shift 1 against shift 5: equal,", same)
print(f"karras, last level {levels[True, 5.0][-1]:.3f}, shifted {levels[False, 5.0][-1]:.3f}")
print("timesteps of 50 steps that are there twice:", twice)
assert same and not np.array_equal(levels[False, 1.0], levels[False, 5.0])
assert levels[True, 5.0][-1] > 0.12 and twice > 0
P
echo "as seen"
