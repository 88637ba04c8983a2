"""A prompt is read by the library's model: what its slot begins with, and the logits behind it.

The model's own position state (`rope_deltas`) is never read: positions are computed here and passed. L prompt
tokens . C channels . V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine.critics.qwen_vl.text_step import LINEAR, Prefilled, layer_kinds

PIECE = 2048
"""Tokens that a model with states reads at once, a multiple of its rule's chunks: in torch the rule takes
more memory than all else of a layer."""
_MEDIA = ("pixel_values_videos", "video_grid_thw")


def read_prompt(model: Any, inputs: Mapping[str, Tensor]) -> Prefilled:
    """`inputs` as `build_inputs` makes them."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

    device = torch.device(model.device)
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        video_grid_thw=inputs.get("video_grid_thw"),
        second_per_grid_ts=inputs.get("second_per_grid_ts"),
    )  # CPU tensors in and out: [3, 1, L]
    text = model.config.get_text_config()
    cache = DynamicCache(config=text)
    read = _in_pieces if LINEAR in layer_kinds(text) else _at_once
    logits = read(model, inputs, positions.to(device, non_blocking=True), cache)
    full = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    linear = [layer for layer in cache.layers if isinstance(layer, LinearAttentionLayer)]
    return Prefilled(
        keys=[layer.keys for layer in full],
        values=[layer.values for layer in full],
        states=[(layer.recurrent_states[0], layer.conv_states[0]) for layer in linear],
        logits=logits,
        # As generate goes on. The delta is to the largest position, which with Qwen2.5-VL may be a clip's.
        next_rotary=int(positions[0, 0, -1]) + 1,
    )


def _at_once(model: Any, inputs: Mapping[str, Tensor], positions: Tensor, cache: Any) -> Tensor:
    """[1, V]: the library's forward over the whole prompt."""
    given = {key: inputs[key] for key in ("input_ids", *_MEDIA) if key in inputs}
    output = model(
        **{key: value.to(positions.device, non_blocking=True) for key, value in given.items()},
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1]
    return logits


def _in_pieces(model: Any, inputs: Mapping[str, Tensor], positions: Tensor, cache: Any) -> Tensor:
    """[1, V]: the same, the language model PIECE tokens at a time; of a family without deepstack features."""
    device, core = positions.device, model.model
    words = core.get_input_embeddings()(inputs["input_ids"].to(device, non_blocking=True))  # [1, L, C]
    if "pixel_values_videos" in inputs:
        media = (inputs[key].to(device, non_blocking=True) for key in _MEDIA)
        clips = core.get_video_features(*media, return_dict=True).pooler_output
        places = (inputs["input_ids"][0] == model.config.video_token_id).nonzero()[:, 0]
        words = words.index_copy(1, places.to(device, non_blocking=True), torch.cat(clips).to(words)[None])
    for start in range(0, words.shape[1], PIECE):
        piece = slice(start, start + PIECE)
        h = core.language_model(
            inputs_embeds=words[:, piece],
            position_ids=positions[..., piece],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    logits: Tensor = model.lm_head(h[:, -1])
    return logits
