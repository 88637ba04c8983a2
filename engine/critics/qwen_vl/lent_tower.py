"""A Cosmos3 reasoner over the text tower that a generator has loaded: one set of weights, two readers.

The tower is Qwen3-VL's language model under other names. Its modules here are of transformers, their
parameters are the very ones of the generator's transformer; only the eyes are read from the folder. Knows no
prompt. Invariant: no weight of the language model is in memory twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from engine.errors import ModelError
from engine.words import counted

EYES = "vision_encoder"
_COMPLETE = (
    "copy the complete model folder: config.json, vision_encoder/, transformer/ and the tokenizer files"
)
_LAYER = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
    "self_attn.q_proj": "self_attn.to_q",
    "self_attn.k_proj": "self_attn.to_k",
    "self_attn.v_proj": "self_attn.to_v",
    "self_attn.o_proj": "self_attn.to_out",
    "self_attn.q_norm": "self_attn.norm_q",
    "self_attn.k_norm": "self_attn.norm_k",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
"""Module of a layer in transformers -> in diffusers' transformer."""


def over_tower(folder: Path, config: Any, tower: Any, dtype: torch.dtype, *, with_weights: bool) -> Any:
    """A Cosmos3OmniForConditionalGeneration whose language model has the parameters of `tower`, a diffusers
    transformer with its words. Without weights all is on the device meta.

    Raises ModelError: config.json is not of this tower, or the eyes are missing.
    """
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    for name, ours, theirs in _pairs(model, tower):
        if ours.weight.shape != theirs.weight.shape:
            raise ModelError(
                f"{folder}: config.json says {list(ours.weight.shape)} for {name}, the transformer has "
                f"{list(theirs.weight.shape)}",
                fix="take config.json and transformer/ from the same model",
            )
        ours.weight = theirs.weight
    if with_weights:
        device = tower.proj_in.weight.device
        text = model.model.language_model
        text.rotary_emb = type(text.rotary_emb)(config=config.get_text_config()).to(device)
        model.model.visual = _eyes(folder, model.model.visual, config.vision_config, dtype, device)
        if left := [name for name, tensor in model.named_parameters() if tensor.is_meta]:
            raise ModelError(f"{folder} has no weights for {left[0]} of the reasoner", fix=_COMPLETE)
    return model


def _pairs(model: Any, tower: Any) -> Iterator[tuple[str, Any, Any]]:
    """(name, module of transformers, module of the generator) with one weight each."""
    text = model.model.language_model
    if len(text.layers) != len(tower.layers):
        raise ModelError(
            f"config.json says {counted(len(text.layers), 'layer')}, the transformer has {len(tower.layers)}",
            fix="take config.json and transformer/ from the same model",
        )
    for name, ours in (("embed_tokens", text.embed_tokens), ("norm", text.norm), ("lm_head", model.lm_head)):
        yield name, ours, tower.get_submodule(name)
    for index, (ours, theirs) in enumerate(zip(text.layers, tower.layers, strict=True)):
        for here, there in _LAYER.items():
            yield f"layers.{index}.{here}", ours.get_submodule(here), theirs.get_submodule(there)


def _eyes(folder: Path, outline: Any, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Where the folder has them: as a model of their own, or as the index at its top points to them."""
    place = folder / EYES
    eyes, info = type(outline).from_pretrained(  # nosec B615 # a local folder
        place, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
    )
    faults = sorted(map(str, (*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"])))
    if faults:
        raise ModelError(f"{place} does not hold the eyes that config.json says: {faults[0]}", fix=_COMPLETE)
    return eyes.to(device)
