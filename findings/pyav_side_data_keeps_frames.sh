#!/usr/bin/env bash
# A frame of PyAV whose `side_data` was asked, for its display matrix, holds it and is held by it: a cycle. The frame
# leaves memory when Python's collector comes, which counts objects and not bytes. One that looks at the first frame
# of many clips, or at each frame of one, holds hundreds of frames: 1.4 MB each in 720p, 12 MB in 4K. A frame that was
# not asked is freed at once.
#
# Seen on 2026-11-30, PyAV 18.1.0, 100 frames of 1280 x 720 that nobody holds: asked, the collector finds 300 objects;
# not asked, 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.1.0" "numpy==2.3.5"

cat > "$work/kept.py" <<'P'
import gc

import av


def kept(ask: bool) -> int:
    gc.collect()
    gc.disable()
    for _ in range(100):
        frame = av.VideoFrame(1280, 720, "yuv420p")
        if ask:
            frame.side_data.get("DISPLAYMATRIX")
        del frame
    found = gc.collect()
    gc.enable()
    return found


asked, others = kept(True), kept(False)
print(f"asked: the collector finds {asked} objects; not asked: {others}")
assert asked >= 200, "changed: a frame that was asked is freed at once"
assert others == 0, "changed: a frame that was not asked is kept"
P
"$work/venv/bin/python" "$work/kept.py"
echo "as described"
