#!/usr/bin/env bash
# An mp4 whose display matrix mirrors the picture, as front cameras of phones write it, reads as another picture in
# OpenCV and by PyAV's `frame.rotation`: both reduce the matrix to an angle. Mirrored left to right becomes turned by
# 180 degrees; mirrored top to bottom is not shown at all; transposed becomes turned by 90. A matrix of zeros has the
# rotation -2147483648. The whole matrix is in PyAV's side data of each frame.
#
# Seen on 2026-11-29, opencv-python-headless 5.0.0.93, PyAV 18.1.0; top left corner 40, top right 90, bottom left 150,
# bottom right 210, as a player shows it and as OpenCV reads it (left to right, top to bottom):
#   left to right: rotation -180, shown 90 40 210 150, OpenCV 210 150 90 40
#   top to bottom: rotation    0, shown 150 210 40 90, OpenCV 40 90 150 210
#   transposed:    rotation  -90, shown 40 150 90 210, OpenCV 150 40 210 90
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.1.0" "numpy==2.3.5" \
  "opencv-python-headless==5.0.0.93"

cat > "$work/mirror.py" <<'P'
import struct
import sys
from pathlib import Path

import av
import cv2
import numpy as np

LEVELS = np.array([[40, 90], [150, 210]])
plain, changed = Path(sys.argv[1], "plain.mp4"), Path(sys.argv[1], "changed.mp4")
with av.open(str(plain), "w") as container:
    stream = container.add_stream("libx264", rate=8)
    stream.width, stream.height, stream.pix_fmt, stream.options = 64, 32, "yuv420p", {"crf": "4"}
    picture = np.repeat(np.repeat(LEVELS, 16, 0), 32, 1).astype(np.uint8)
    for _ in range(3):
        frame = av.VideoFrame.from_ndarray(np.stack([picture] * 3, -1), format="rgb24")
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def corners(picture):
    """Of a picture [H, W, 3], to the nearest of the four levels."""
    height, width = picture.shape[:2]
    found = picture[height // 4 :: height // 2, width // 4 :: width // 2, 1].astype(int).ravel()
    return [int(LEVELS.ravel()[abs(LEVELS.ravel() - level).argmin()]) for level in found]


CASES = {
    "left to right": ((-1, 0, 0, 1), LEVELS[:, ::-1], -180, [210, 150, 90, 40]),
    "top to bottom": ((1, 0, 0, -1), LEVELS[::-1], 0, [40, 90, 150, 210]),
    "transposed": ((0, 1, 1, 0), LEVELS.T, -90, [150, 40, 210, 90]),
}
for name, ((a, b, c, d), shown, rotation, seen) in CASES.items():
    data = bytearray(plain.read_bytes())
    one = 1 << 16  # ISO/IEC 14496-12, 8.3.2: the matrix of the track header
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    changed.write_bytes(data)
    with av.open(str(changed)) as container:
        angle = next(container.decode(video=0)).rotation
    read = corners(cv2.VideoCapture(str(changed)).read()[1])
    print(f"{name}: rotation {angle}, shown {shown.ravel().tolist()}, OpenCV {read}")
    assert (angle, read) == (rotation, seen), f"changed: {name}"
    assert read != shown.ravel().tolist(), f"changed: {name} is read as it is shown"
P
"$work/venv/bin/python" "$work/mirror.py" "$work"
echo "as described"
