"""Positions of a prompt with clips are those of the library's generate, at the prefill and at every token.

Of Qwen2.5-VL too, which puts the text behind a clip with few frames a second inside that clip's positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_vlm import SPECIALS, tiny_tokenizer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from engine.critics.qwen_vl.decode import Decoding
from engine.critics.qwen_vl.preprocess import VideoSegment, build_inputs
from engine.critics.qwen_vl.slots import Slots
from engine.critics.qwen_vl.text_step import TextStep

SPARSE_S = (0.0, 0.1, 30.0, 30.1)
NUM_TOKENS = 5


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "patch_size": 8,
        "out_hidden_size": 32, "fullatt_block_indexes": [0], "window_size": 32, "tokens_per_second": 2,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def prompt(tokenizer: Any, model: Any) -> dict[str, torch.Tensor]:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    clip = VideoSegment(frames=frames, times_s=SPARSE_S)
    return build_inputs(tokenizer, model.config, ["look ", clip, " what comes next"])


def test_text_behind_a_sparse_clip_lies_inside_the_clip(tokenizer: Any, model: Any) -> None:
    """When this fails the library has changed; positions are still its own."""
    inputs = prompt(tokenizer, model)
    media = {name: inputs[name] for name in ("mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")}
    positions, delta = model.model.get_rope_index(inputs["input_ids"], **media)
    of_clip = (inputs["input_ids"][0] == model.config.video_token_id).nonzero().flatten()
    last = int(of_clip.max())
    clip, text = positions[0, 0, of_clip], positions[0, 0, last + 1 :]
    assert clip.min() < text.min() and text.max() < clip.max()
    assert inputs["input_ids"].shape[1] + int(delta) == clip.max() + 1, "the delta is not to the last token"


def test_every_forward_has_the_positions_of_generate(tokenizer: Any, model: Any) -> None:
    seen: list[torch.Tensor] = []

    def note(_: Any, given: tuple[torch.Tensor, torch.Tensor]) -> None:
        seen.append(given[1].clone())

    hook = model.model.language_model.rotary_emb.register_forward_pre_hook(note)
    try:
        model.generate(**prompt(tokenizer, model), max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=0)
        expected = [*seen]
        seen.clear()
        slots = Slots(TextStep(model), device=model.device, eos_ids=(0,), max_new_tokens=NUM_TOKENS, drafts=0)
        decoding = Decoding(model, slots, prompt(tokenizer, model), max_new_tokens=NUM_TOKENS, chunk_tokens=2)
        decoding.prefill().wait()
        while not decoding.finished:
            decoding.extend().wait()
    finally:
        hook.remove()
    assert len(expected) == NUM_TOKENS
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(seen, expected, strict=True))
