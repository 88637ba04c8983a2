#!/usr/bin/env bash
# transformers 5.23.0, Qwen2.5-VL: the temporal positions of a video are scaled by its seconds per grid, but the text
# behind it starts after the height of one frame, inside the video's positions, where a video has few frames a second.
# And the library then has two positions for the first token of the reply: generate goes on from the last token of the
# prompt, while a loop over forward with a cache (which takes the model's own rope_deltas) goes on from behind the
# video. One prompt, two replies. Qwen3-VL and dense videos have one answer.
#
# Seen on 2026-11-29, 2 temporal groups of 4 tokens, 30 s apart, between texts of 3 and 5 tokens:
#   video 4 to 64, text behind it 6 to 10, first token: generate 11, forward 65
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==5.23.0" "torch==2.13.0" "numpy==2.3.5"

cat > "$work/positions.py" <<'P'
import torch
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

IMAGE, VIDEO, START, END = 90, 91, 92, 93
torch.manual_seed(0)
text = dict(vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, bos_token_id=None, eos_token_id=99, pad_token_id=98,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]})
vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=1, patch_size=8, out_hidden_size=32,
              fullatt_block_indexes=[0], window_size=32, tokens_per_second=2)
model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
    text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
    vision_start_token_id=START, vision_end_token_id=END)).eval()

ids = torch.tensor([[1, 2, 3, START, *[VIDEO] * 8, END, 4, 5, 6, 7]])
inputs = dict(input_ids=ids, mm_token_type_ids=(ids == VIDEO).long() * 2, video_grid_thw=torch.tensor([[2, 4, 4]]),
              second_per_grid_ts=torch.tensor([30.0]), pixel_values_videos=torch.randn(32, 3 * 2 * 8 * 8))
seen = []
model.model.language_model.register_forward_pre_hook(
    lambda _, __, given: seen.append(given["position_ids"][-3:, 0]), with_kwargs=True)
with torch.no_grad():
    model.generate(**inputs, max_new_tokens=2, do_sample=False, eos_token_id=0)
    prompt, by_generate = seen[0], int(seen[1][0, -1])
    cache = DynamicCache(config=model.config.get_text_config())
    token = model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    model(input_ids=token, past_key_values=cache, use_cache=True)
of_video = prompt[0, ids[0] == VIDEO]
behind = prompt[0, int((ids[0] == VIDEO).nonzero().max()) + 1:]
print(f"video {of_video.min()} to {of_video.max()}, text behind it {behind.min()} to {behind.max()}, "
      f"first token: generate {by_generate}, forward {int(seen[-1][0, -1])}")
P

found=$("$work/venv/bin/python" "$work/positions.py" 2> "$work/stderr") || { cat "$work/stderr"; exit 1; }
echo "$found"
expected="video 4 to 64, text behind it 6 to 10, first token: generate 11, forward 65"
[ "$found" = "$expected" ] || { echo "changed: $expected before"; exit 1; }
echo "as described"
