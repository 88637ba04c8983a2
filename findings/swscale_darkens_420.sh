#!/usr/bin/env bash
# FFmpeg 8 (PyAV 18.1.0): the default conversion of 4:2:0 to RGB darkens by up to 2 levels wherever the size changes:
# grey 128 (Y 126 of limited range) becomes 126. Two kinds of flags of swscale make it right at every size, and neither
# alone does: full chroma (FULL_CHR_H_INT) is without effect where the size stays, accurate rounding (ACCURATE_RND)
# makes it worse there. Whatever asks for a model's size or a thumbnail sees darker clips than a player shows.
#
# Seen on 2026-11-29, largest difference from the BT.601 formula over all greys of limited range:
#   same size: default 0.99, ACCURATE_RND 2.27, FULL_CHR 0.99, both 0.49
#   half size: default 2.27, ACCURATE_RND 2.27, FULL_CHR 0.49, both 0.49
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.1.0" "numpy==2.3.5"

cat > "$work/greys.py" <<'P'
import av
import numpy as np
from av.video.reformatter import Interpolation as I

FLAGS = {"default": 0, "ACCURATE_RND": I.ACCURATE_RND, "FULL_CHR": I.FULL_CHR_H_INT | I.FULL_CHR_H_INP}
FLAGS["both"] = FLAGS["ACCURATE_RND"] | FLAGS["FULL_CHR"]


def worst(size, flags):
    away = []
    for luma in range(16, 236):
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, level in zip(frame.planes, (luma, 128, 128), strict=True):
            plane.update(bytes([level]) * plane.buffer_size)
        frame.colorspace, frame.color_range = 6, 1  # BT.601, limited range
        shown = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], interpolation=I.BICUBIC | flags)
        away.append(np.abs(shown - (luma - 16) * 255 / 219).max())
    return max(away)


found = {}
for name, size in (("same size", (64, 48)), ("half size", (32, 24))):
    for flag, bits in FLAGS.items():
        found[name, flag] = worst(size, bits)
        print(f"{name}, {flag}: {found[name, flag]:.2f}")
assert found["half size", "default"] > 2 and found["same size", "ACCURATE_RND"] > 2, "changed: it is right now"
assert found["half size", "both"] < 0.5 and found["same size", "both"] < 0.5, "changed: the flags do not mend it"
P
"$work/venv/bin/python" "$work/greys.py"
echo "as described"
