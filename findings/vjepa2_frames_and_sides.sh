#!/usr/bin/env bash
# transformers 5.23.0: VJEPA2Model takes any number of frames and any size of picture without a word. A frame that its
# tubelets leave over (the 17th of 17) has no effect at all. Where the picture is not of the config's `crop_size`, its
# patches are numbered by the grid of that size: rotary positions walk through rows that the picture does not have, so
# that tokens of one frame get the places, and the times, of others. Both give features of the right shape.
#
# Seen on 2026-11-29, torch 2.13.0+cpu, a config of 64 x 64 pixels in patches of 16, tubelets of 2 frames:
#   17 frames: 128 tokens, largest difference from the features of the first 16: 0.0
#   16 frames of 96 x 96: 288 tokens, of 36 for each time; times they are given: 18, where there are 8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" \
  "numpy==2.3.5"

cat > "$work/vjepa.py" <<'P'
import torch
from transformers import VJEPA2Config, VJEPA2Model

torch.manual_seed(0)
sizes = {
    "crop_size": 64, "patch_size": 16, "frames_per_clip": 16, "tubelet_size": 2, "hidden_size": 48,
    "num_attention_heads": 2, "num_hidden_layers": 2, "mlp_ratio": 2.0, "pred_hidden_size": 48,
    "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2,
}
model = VJEPA2Model(VJEPA2Config(**sizes)).eval()


@torch.no_grad()
def features(pixels):
    return model.encoder(pixel_values_videos=pixels).last_hidden_state


clip = torch.randn(1, 17, 3, 64, 64)
odd, even = features(clip), features(clip[:, :16])
apart = float((odd - even).abs().max())
print(f"17 frames: {odd.shape[1]} tokens, largest difference from the features of the first 16: {apart}")
large = features(torch.randn(1, 16, 3, 96, 96))
times, _, _ = model.encoder.layer[0].attention.get_position_ids(large)
num_times = int(times.max()) + 1
print(f"16 frames of 96 x 96: {large.shape[1]} tokens, of 36 for each time; times they are given: {num_times}")
assert odd.shape == even.shape and apart == 0, "changed: the odd frame counts or is refused"
assert large.shape[1] == 8 * 36 and num_times == 18, "changed: places follow the picture"
P
"$work/venv/bin/python" "$work/vjepa.py"
echo "as described"
