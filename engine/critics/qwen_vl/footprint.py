"""What a Qwen-VL critic takes of the memory of its device: model, slots, and a prompt being read.

Used by the outline, before a weight is read, and by the loaded critic alike. Invariant: the slots that a
critic makes on a GPU are those that are planned here.
L tokens of a prompt . V vocabulary . e bytes of an element
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn

from engine.critics.qwen_vl.delta_net import memory_bytes, rule_bytes
from engine.critics.qwen_vl.prefill import PIECE
from engine.critics.qwen_vl.projections import ROWS
from engine.critics.qwen_vl.slots import slot_length
from engine.critics.qwen_vl.text_step import FULL, LINEAR, head_dim, layer_kinds
from engine.machine.memory import GRAPHS, SLOTS
from engine.types import Footprint, VideoSpec

if TYPE_CHECKING:
    from engine.critics.qwen_vl.critic import QwenVLCritic
    from engine.critics.qwen_vl.preprocess import PatchGeometry

PROMPT_TOKENS = 512
"""For the sentence of the benchmark or the prompt of a take, and the chat template around all."""
GROUP_TOKENS = 12
"""Of text around the tokens of two frames: marks, and their time."""
NUM_GRAPHS = 2
"""Of a step: with and without masks and sampling."""


def footprint(critic: QwenVLCritic, spec: VideoSpec) -> Footprint:
    """For `critic.replies` replies at once about takes of `spec`."""
    text, vision = critic.model.config.get_text_config(), critic.model.config.vision_config
    element, settings = critic.model.dtype.itemsize, critic.settings
    tokens, patches = longest_prompt(critic, spec)
    kv_bytes, memories = kept_bytes(text, element)
    length = slot_length(tokens, settings.max_new_tokens)
    slots = critic.replies * (length * kv_bytes + memories + text.vocab_size)
    lent = set() if critic.lent is None else {id(tensor) for tensor in critic.lent.parameters()}
    tensors = (*critic.model.parameters(), *critic.model.buffers())
    weights = [tensor for tensor in tensors if id(tensor) not in lent]
    held = {
        "model": sum(tensor.numel() * tensor.element_size() for tensor in weights),
        SLOTS: slots,
    }
    if critic.on_gpu:  # logits of a step in both types, and what chooses among them
        held[GRAPHS] = NUM_GRAPHS * ROWS * text.vocab_size * (element + 2 * 4)
    prefill = prefill_bytes(text, tokens, element)
    encode = patches * element * (2 * vision.intermediate_size + 3 * vision.hidden_size)
    pixels = patches * 4 * 3 * critic.geometry.temporal_patch_size * critic.geometry.patch_size**2
    prompt = tokens * kv_bytes + memories + _dequantized_bytes(critic.model, element)
    return Footprint(held=held, working={"prompt": prompt + max(prefill, encode + pixels)})


def kept_bytes(text: Any, element: int) -> tuple[int, int]:
    """Of a slot: keys and values of a token, and what layers with states keep whatever the length."""
    kinds = layer_kinds(text)
    full, linear = kinds.count(FULL), kinds.count(LINEAR)
    token = 2 * full * text.num_key_value_heads * head_dim(text) * element
    return token, linear * memory_bytes(text, element) if linear else 0


def prefill_bytes(text: Any, tokens: int, element: int) -> int:
    """At the peak of a layer, beside what is kept of the prompt: input, residual and its norm, and three of
    the width of the feed-forward.

    A model with states reads a piece after the other, of which the library's rule takes more, and has the
    input of all at once. `text`: the model's text config.
    """
    linear = LINEAR in layer_kinds(text)
    at_once = min(tokens, PIECE) if linear else tokens
    feed_forward = int(at_once * element * (3 * text.intermediate_size + 3 * text.hidden_size))
    if not linear:
        return feed_forward
    words = tokens * element * text.hidden_size if tokens > at_once else 0
    return int(words + max(feed_forward, rule_bytes(text, at_once, element)))


def longest_prompt(critic: QwenVLCritic, spec: VideoSpec) -> tuple[int, int]:
    """Tokens of the longest prompt about takes of `spec`, and the patches of its frames."""
    settings, geometry = critic.settings, critic.geometry
    prefix = min(settings.num_prefix_frames, spec.prefix_frames)
    take = min(settings.num_take_frames, spec.num_frames)
    instruction = settings.patch_instruction if critic.patches else settings.critique_instruction
    plan = _prompt_tokens(critic, settings.plan_instruction, (prefix,), spec)
    critique = _prompt_tokens(critic, instruction, (prefix, take), spec)
    critique += settings.max_new_tokens * critic.patches  # the plan, which the critic wrote
    patches = _groups((prefix, take), geometry) * geometry.tokens_per_group(spec.height, spec.width)
    return max(plan, critique), patches * geometry.merge_size**2


def planned_length(critic: QwenVLCritic, spec: VideoSpec) -> int:
    """Positions of a slot for such takes."""
    return slot_length(longest_prompt(critic, spec)[0], critic.settings.max_new_tokens)


def _prompt_tokens(critic: QwenVLCritic, instruction: str, clips: tuple[int, ...], spec: VideoSpec) -> int:
    groups = _groups(clips, critic.geometry)
    words = len(critic.tokenizer(instruction)["input_ids"]) + PROMPT_TOKENS
    return int(words + groups * (critic.geometry.tokens_per_group(spec.height, spec.width) + GROUP_TOKENS))


def _groups(clips: tuple[int, ...], geometry: PatchGeometry) -> int:
    return sum(math.ceil(frames / geometry.temporal_patch_size) for frames in clips)


def _dequantized_bytes(model: Any, element: int) -> int:
    """The largest quantized layer, as a prompt is read with it: in the type of the activations."""
    sizes = [
        module.in_features * module.out_features * element
        for module in model.model.language_model.modules()
        if hasattr(module, "in_features") and not _is_plain(module)
    ]
    return max(sizes, default=0)


def _is_plain(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear) and weight is not None and weight.is_floating_point()
