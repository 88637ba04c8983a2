#!/usr/bin/env bash
# The wheels of OpenCV open an AV1 file, state its size, rate and number of frames, and read none: the first `read`
# says False, which a loop takes for the end of the clip. Their FFmpeg has an AV1 decoder that works on graphics
# hardware alone, and no software one. FFmpeg tells so on stderr; no exception, no status.
#
# Seen on 2026-11-29, opencv-python-headless 5.0.0.93 and PyAV 18.1.0, 24 frames of SVT-AV1 in mp4:
#   OpenCV: opened True, states 24 frames at 8 per second, reads 0; PyAV reads 24
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.1.0" "numpy==2.3.5" \
  "opencv-python-headless==5.0.0.93"

cat > "$work/av1.py" <<'P'
import sys

import av
import cv2
import numpy as np

path = sys.argv[1]
with av.open(path, "w") as container:
    stream = container.add_stream("libsvtav1", rate=8)
    stream.width, stream.height, stream.pix_fmt, stream.options = 64, 64, "yuv420p", {"preset": "10"}
    for level in range(24):
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * level, np.uint8), format="rgb24")
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))
with av.open(path) as container:
    decoded = len(list(container.decode(video=0)))
capture = cv2.VideoCapture(path)
stated, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
read = 0
while capture.read()[0]:
    read += 1
print(f"OpenCV: opened {capture.isOpened()}, states {stated:g} frames at {rate:g} per second, reads {read}")
print(f"PyAV reads {decoded}")
assert (stated, decoded) == (24, 24), "changed: the clip is another"
assert read == 0, "changed: OpenCV reads AV1"
P
"$work/venv/bin/python" "$work/av1.py" "$work/clip.mp4" 2> "$work/stderr" || { cat "$work/stderr"; exit 1; }
echo "as described"
