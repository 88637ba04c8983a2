"""A real Qwen3-VL, or Qwen3.5, of a few ten thousand random parameters with its own tokenizer, built in
a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5TextConfig,
    Qwen3_5VisionConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLTextConfig,
    Qwen3VLVisionConfig,
)

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIALS += ["<|image_pad|>", "<|video_pad|>"]

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """Byte-level, so that it reads and writes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["what the ball does after <0.3 seconds>, assistant, user"] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_special_tokens({"additional_special_tokens": SPECIALS})
    fast.chat_template = chat_template
    return fast


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(0)
    text = Qwen3VLTextConfig(
        **_text(tokenizer),
        num_hidden_layers=2,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    )
    vision = Qwen3VLVisionConfig(**VISION, deepstack_visual_indexes=[0])
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_tokens(tokenizer))
    return Qwen3VLForConditionalGeneration(config).eval()


def tiny_hybrid(tokenizer: PreTrainedTokenizerFast) -> Qwen3_5ForConditionalGeneration:
    """Two layers with states around one of attention, of which a quarter of the features is rotated.

    Its weights are larger than the library's initial ones, so that states and gates count.
    """
    torch.manual_seed(0)
    text = Qwen3_5TextConfig(
        **_text(tokenizer),
        num_hidden_layers=3,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        initializer_range=0.2,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
    )
    vision = Qwen3_5VisionConfig(**VISION)
    config = Qwen3_5Config(text_config=text, vision_config=vision, **_tokens(tokenizer))
    model = Qwen3_5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "layernorm.weight", "dt_bias")):
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if name.endswith("A_log"):
                parameter.sub_(3)  # states that last
    return model


VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
}


def _text(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,  # blocks of bitsandbytes are 64 weights of one row
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    }


def _tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    ids: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
    }


def save_tiny_vlm(folder: Path, sidecar: str | None = None, *, make: Any = tiny_model) -> Path:
    tokenizer = tiny_tokenizer()
    model: Any = make(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if sidecar is not None:
        (folder / "retake.json").write_text(sidecar)
    return folder
