#!/usr/bin/env bash
# FFmpeg 9.0.2 (imageio-ffmpeg 0.8.1; 5.1 does the same): a clip of another frame rate is another clip by `-r 8` behind
# the input than by the filter `fps=8`. Of 150 frames at 30 a second, which last 5 s, the option makes 42 frames, not 40:
# the first three are the first, second and fourth of the source, and from there on each shows what was 0.14 s earlier.
# By the filter a frame shows, on average, what comes 0.05 s later, since it takes the last one that rounds to its time.
# Both files say 8 frames a second from time 0 on, and nothing is told. Who brings takes to the 8, 16 or 24 frames a
# second at which Physics-IQ compares them frame by frame is one and a half frames off by the choice of a flag.
#
# Seen on 2026-12-01 (frames numbered in their pixels, x264 without loss; the first twelve, and the mean lead of all
# behind them over their own times):
#   fps=8: 40 frames: 1 5 9 13 16 20 24 28 31 35 39 43, leads by 0.05 s
#   -r 8: 42 frames: 0 1 3 7 10 14 18 22 25 29 33 37, leads by -0.15 s
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "imageio-ffmpeg==0.8.1" "av==18.1.0" "numpy==2.3.5"

cat > "$work/rates.py" <<'P'
import subprocess
import sys
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

folder = Path(sys.argv[1])
source, out = folder / "source.mp4", folder / "out.mp4"
with av.open(str(source), "w") as container:
    stream = container.add_stream("libx264", rate=30)
    stream.width, stream.height, stream.pix_fmt, stream.options = 128, 32, "yuv420p", {"qp": "0"}
    for number in range(150):
        luma = np.repeat([235 if number >> bit & 1 else 16 for bit in range(8)], 16)
        planes = np.vstack([np.tile(luma, (32, 1)), np.full((16, 128), 128)]).astype(np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
    container.mux(stream.encode(None))
for words in (["-vf", "fps=8"], ["-r", "8"]):
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-i", source, *words]
    subprocess.run([*ffmpeg, "-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", out], check=True)
    with av.open(str(out)) as container:
        found = [
            (frame.time, sum(int(frame.to_ndarray()[16, 16 * bit + 8] > 128) << bit for bit in range(8)))
            for frame in container.decode(video=0)
        ]
    lead_s = np.mean([number / 30 - time for time, number in found[12:]])
    name = words[-1] if "=" in words[-1] else " ".join(words)
    first = " ".join(str(number) for _, number in found[:12])
    print(f"{name}: {len(found)} frames: {first}, leads by {lead_s:.2f} s")
P

cat > "$work/expected" <<'P'
fps=8: 40 frames: 1 5 9 13 16 20 24 28 31 35 39 43, leads by 0.05 s
-r 8: 42 frames: 0 1 3 7 10 14 18 22 25 29 33 37, leads by -0.15 s
P
"$work/venv/bin/python" "$work/rates.py" "$work" > "$work/found" 2> "$work/stderr" || { cat "$work/stderr"; exit 1; }
cat "$work/found"
diff "$work/expected" "$work/found" || { echo "changed"; exit 1; }
echo "as described"
