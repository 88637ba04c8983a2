#!/usr/bin/env bash
# OpenCV's CAP_PROP_POS_FRAMES, which is said to be the index of the frame to be read next, goes to a time: index over
# the mean rate. Where frames come unevenly that is another frame, or none, though `set` says True. In MPEG-TS the
# first group of pictures cannot be reached: indices 0 to 7 give frames 6 and 7, or nothing if there is one group.
# Reading from the start gives every frame of all three. Evenly timed mp4 and Matroska are right.
#
# Seen on 2026-11-29, opencv-python-headless 5.0.0.93, 36 frames, key frames 6 apart:
#   twelve frames at 15, then 24 at 30 a second, mp4: index 26 gives 23, index 35 gives 29 (mean rate 22.5)
#   24 frames at 30, then twelve at 7.5 a second, mp4: index 20 gives 23, index 28 and later none
#   30 a second, MPEG-TS: indices 0 to 7 give 6 7 7 7 7 7 7 7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.1.0" "numpy==2.3.5" \
  "opencv-python-headless==5.0.0.93"

cat > "$work/seek.py" <<'P'
import os
import sys
from fractions import Fraction

import av
import cv2
import numpy as np


def write(path, ticks, **options):
    """Frames that are brighter by 5 levels each, at these times in 1/30 s."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 64, "yuv420p", {"g": "6", **options}
        stream.codec_context.time_base = Fraction(1, 30)
        for number, tick in enumerate(ticks):
            picture = np.full((64, 64, 3), 20 + 5 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def number(found, picture):
    return round((picture.mean() - 20) / 5) if found else None


def in_order(path):
    capture = cv2.VideoCapture(path)
    return [number(*capture.read()) for _ in range(36)]


def by_index(path):
    capture = cv2.VideoCapture(path)
    found = []
    for index in range(36):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        found.append(number(*capture.read()))
    return found


os.chdir(sys.argv[1])
write("faster.mp4", [*range(0, 24, 2), *range(24, 48)], bf="0")
write("slower.mp4", [*range(24), *range(24, 72, 4)])
write("even.ts", range(36))
write("even.mp4", range(36))
seen = {path: by_index(path) for path in ("faster.mp4", "slower.mp4", "even.ts", "even.mp4")}
for path, found in seen.items():
    print(path, *found)
    assert in_order(path) == list(range(36)), f"changed: {path} is not read whole in order"
assert seen["even.mp4"] == list(range(36)), "changed: an even mp4 is read wrongly"
assert (seen["faster.mp4"][26], seen["faster.mp4"][35]) == (23, 29), "changed: indices over an uneven rate"
assert seen["slower.mp4"][20] == 23 and seen["slower.mp4"][28:] == [None] * 8, "changed: the end of an uneven clip"
assert seen["even.ts"][:8] == [6, 7, 7, 7, 7, 7, 7, 7], "changed: the start of MPEG-TS"
P
"$work/venv/bin/python" "$work/seek.py" "$work" 2> "$work/stderr" || { cat "$work/stderr"; exit 1; }
echo "as described"
