#!/usr/bin/env bash
# diffusers 0.42.1, VideoProcessor.preprocess_video, by which the pipelines of Wan, Cosmos, LTX and others take the clip
# or picture that they continue: what it resizes by depends on the container. Frames as PIL images are resized by
# Lanczos, as its setting `resample` says; the same frames as NumPy arrays or tensors by torch's interpolate with its
# default, which is nearest neighbour and knows nothing of that setting. Nothing is said. Frames from a decoder are
# arrays, so that a 1080p prefix reaches a 480p model with three of four pixels thrown away: edges flicker that were
# still, and a conditioning frame differs from the take behind it. Give PIL images, or frames of the model's size.
#
# Seen on 2026-12-01 (a chessboard of single pixels, black and white, 64x64 to 32x32; the lowest and highest value, where
# -1 is black, 1 white and 0 their mean):
#   PIL images: -0.03 to 0.03
#   NumPy arrays: -1.00 to -1.00
#   a tensor: -1.00 to -1.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "diffusers==0.42.1" "torch==2.13.0" "numpy==2.3.5" "pillow==12.0.0"

cat > "$work/resized.py" <<'P'
import numpy as np
import PIL.Image
import torch
from diffusers.video_processor import VideoProcessor

board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
frame = np.stack([board] * 3, axis=-1)
floats = frame.astype(np.float32) / 255
clips = {
    "PIL images": [PIL.Image.fromarray(frame)] * 5,
    "NumPy arrays": [floats] * 5,
    "a tensor": torch.from_numpy(np.stack([floats] * 5)).permute(0, 3, 1, 2),
}
for name, clip in clips.items():
    found = VideoProcessor(vae_scale_factor=8, resample="lanczos").preprocess_video(clip, height=32, width=32)
    print(f"{name}: {found.min():.2f} to {found.max():.2f}")
P

cat > "$work/expected" <<'P'
PIL images: -0.03 to 0.03
NumPy arrays: -1.00 to -1.00
a tensor: -1.00 to -1.00
P
"$work/venv/bin/python" "$work/resized.py" > "$work/found" 2> "$work/stderr" || { cat "$work/stderr"; exit 1; }
cat "$work/found"
diff "$work/expected" "$work/found" || { echo "changed"; exit 1; }
echo "as described"
