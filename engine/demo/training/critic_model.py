"""The demo critic as a transformers model: a small Qwen3-VL with its byte-level tokenizer, and its folder.

Builds and saves; training is in `train_critic`. At 128 px a pair of frames becomes 8 x 8 patches, 16 tokens.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine.demo.training.critic_text import (
    CHAT_TEMPLATE,
    CRITIQUE_INSTRUCTION,
    MAX_NEW_TOKENS,
    NUM_PREFIX_FRAMES,
    NUM_TAKE_FRAMES,
    PLAN_INSTRUCTION,
)

VOCABULARY: Final = 2048
PATCH_PX: Final = 16
GROUP_PATCHES: Final = 64  # of a pair of frames of 128 px
UNMASKED: Final = "retake_unmasked"  # causal attention by its flag
SPECIALS: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def build_tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE trained on `texts`; digits stand alone, so that numbers are read digit by digit."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIALS),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(  # nosec B106 # tokens of a vocabulary
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_special_tokens({"additional_special_tokens": list(SPECIALS)})
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(tokenizer: Any, *, hidden: int = 256, layers: int = 8, vision_hidden: int = 256) -> Any:
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLTextConfig,
        Qwen3VLVisionConfig,
    )

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    text = Qwen3VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [12, 10, 10],
            "mrope_interleaved": True,
        },
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    vision = Qwen3VLVisionConfig(
        depth=6,
        hidden_size=vision_hidden,
        intermediate_size=4 * vision_hidden,
        num_heads=vision_hidden // 64,
        patch_size=PATCH_PX,
        spatial_merge_size=2,
        temporal_patch_size=2,
        out_hidden_size=hidden,
        num_position_embeddings=64,
        deepstack_visual_indexes=[2],
    )
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return Qwen3VLForConditionalGeneration(config)


def fit_for_training(model: Any, group_patches: int) -> None:
    """Gives layers of this instance forms that are fast for many equal clips and wait for nothing.

    The library loops in Python over groups of frames, cuts patches by a convolution, and finds the places of
    the clips among the tokens by a mask, for which the host waits. Here a vision attention is one call for
    all groups, of `group_patches` patches each, patches are cut by a linear layer, and what the clips add to
    the hidden states goes to the columns which stand in the place of that mask: the same ones in all rows.
    It also makes a mask of its own for causal attention while a stream is captured, and only then, so that
    layers would be compiled in the middle of a capture: here there is none, for padding stands behind what is
    learned.
    """
    AttentionInterface.register(UNMASKED, sdpa_attention_forward)
    AttentionMaskInterface.register(UNMASKED, lambda *_, **__: None)
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

    def _attend(
        self: Any, hidden_states: torch.Tensor, position_embeddings: Any = None, **_: Any
    ) -> torch.Tensor:
        num_patches = hidden_states.shape[0]
        qkv = self.qkv(hidden_states).reshape(num_patches, 3, self.num_heads, -1).permute(1, 0, 2, 3)
        q, k = apply_rotary_pos_emb_vision(qkv[0], qkv[1], *position_embeddings)
        # [patches, heads, D] -> [groups, heads, patches of a group, D]
        q, k, v = (
            x.reshape(-1, group_patches, self.num_heads, self.head_dim).transpose(1, 2).to(qkv.dtype)
            for x in (q, k, qkv[2])
        )
        out = functional.scaled_dot_product_attention(q, k, v)
        return torch.as_tensor(self.proj(out.transpose(1, 2).reshape(num_patches, -1)))

    def _embed(self: Any, pixels: torch.Tensor) -> torch.Tensor:
        weight = self.proj.weight.flatten(1)
        return functional.linear(pixels.to(weight.dtype), weight, self.proj.bias)

    def _add(_: Any, hidden: torch.Tensor, columns: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        return hidden.index_add(1, columns, shown.to(hidden.dtype))

    visual, language = model.model.visual, model.model.language_model
    for block in visual.blocks:
        block.attn.forward = types.MethodType(_attend, block.attn)
    visual.patch_embed.forward = types.MethodType(_embed, visual.patch_embed)
    language._deepstack_process = types.MethodType(_add, language)
    language.config._attn_implementation = UNMASKED


def _as_the_library(model: Any) -> None:
    """Undoes `fit_for_training`."""
    visual = model.model.visual
    for module in (*(block.attn for block in visual.blocks), visual.patch_embed):
        module.__dict__.pop("forward", None)
    model.model.language_model.__dict__.pop("_deepstack_process", None)
    model.model.language_model.config._attn_implementation = "sdpa"


def save_critic(model: Any, tokenizer: Any, folder: Path, size_px: int) -> None:
    """The transformers folder (fp16), with processor files and the retake.json sidecar."""
    import copy

    saved = copy.deepcopy(model)
    _as_the_library(saved)
    saved.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pixels = {
        "patch_size": PATCH_PX,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": size_px * size_px, "longest_edge": size_px * size_px * 64},
    }
    image = {
        **pixels,
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
    }
    video = {**pixels, "video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(image, indent=2) + "\n")
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2) + "\n")
    sidecar = {
        "plan_instruction": PLAN_INSTRUCTION,
        "critique_instruction": CRITIQUE_INSTRUCTION,
        "num_prefix_frames": NUM_PREFIX_FRAMES,
        "num_take_frames": NUM_TAKE_FRAMES,
        "frame_px": size_px,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    (folder / "retake.json").write_text(json.dumps(sidecar, indent=2) + "\n")
