"""Critics of random weights in the shapes of published ones, hardly any eyes, and prompts of words."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.critics.qwen_vl.folder import UNQUANTIZED
from engine.critics.qwen_vl.text_step import groups


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of a critic, the prompt and what is written."""

    text: Mapping[str, Any]
    mrope: tuple[int, int, int]
    prompt: int
    tokens: int

    @property
    def is_hybrid(self) -> bool:
        """Whether it is a Qwen3.5, most of whose layers have states."""
        return "linear_num_value_heads" in self.text


SIZES = {
    "8b": Size(
        {
            "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        }, (24, 20, 20), prompt=2300, tokens=200,
    ),
    "qwen3.5-9b": Size(
        {
            "vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
            "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
        }, (11, 11, 10), prompt=2300, tokens=200,
    ),
    "tiny-hybrid": Size(
        {
            "vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        }, (2, 1, 1), prompt=50, tokens=8,
    ),
    "tiny": Size(
        {
            "vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        }, (4, 2, 2), prompt=50, tokens=8,
    ),
}  # fmt: skip


def config_of(size: Size) -> Any:
    """A Qwen3-VL or Qwen3.5 of the size, with hardly any eyes."""
    from transformers import Qwen3_5Config, Qwen3VLConfig

    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": list(size.mrope),
        "mrope_interleaved": True,
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": size.text["hidden_size"],
    }
    if size.is_hybrid:
        family, rope = Qwen3_5Config, rope | {"partial_rotary_factor": 0.25}
    else:
        family, vision = Qwen3VLConfig, vision | {"deepstack_visual_indexes": []}
    return family(
        text_config=dict(size.text, rope_parameters=rope, max_position_embeddings=32768),
        vision_config=vision,
        tie_word_embeddings=False,
    )


def build(size: Size, device: torch.device, dtype: torch.dtype) -> Any:
    """A model of the size with random weights."""
    from transformers import AutoModelForImageTextToText

    config = config_of(size)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = AutoModelForImageTextToText.from_config(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    return model.requires_grad_(False)


def quantize(model: Any) -> None:
    """The linear layers of the language model as bitsandbytes' NF4, as a run has them."""
    library: Any = importlib.import_module("bitsandbytes.nn")  # Any: its own annotations are incomplete
    for group in groups(model):
        for owner, name in group:
            if f".{name}" in UNQUANTIZED:
                continue
            layer = getattr(owner, name)
            packed = library.Linear4bit(
                layer.in_features, layer.out_features, bias=False, compute_dtype=torch.bfloat16,
                compress_statistics=False, quant_type="nf4", device="meta",
            )  # fmt: skip
            packed.weight = library.Params4bit(
                layer.weight.data, requires_grad=False, compress_statistics=False, quant_type="nf4"
            ).to(layer.weight.device)
            setattr(owner, name, packed)


def prompts(size: Size, count: int) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, size.text["vocab_size"], (count, size.prompt), generator=random)


def as_inputs(ids: Tensor) -> dict[str, Tensor]:
    """Of a prompt [1, L] without clips."""
    return {"input_ids": ids.cpu(), "mm_token_type_ids": torch.zeros_like(ids.cpu())}
