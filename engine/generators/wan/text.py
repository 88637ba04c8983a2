"""A prompt of the Wan family -> token ids -> embeddings.

Knows no job and no prefix. n tokens . S of a padded text . D text width
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from engine.errors import ModelError
from engine.machine.device import to_device
from engine.words import counted

if TYPE_CHECKING:
    from engine.generators.wan.folder import WanParts


def token_ids(parts: WanParts, text: str) -> Tensor:
    """int64 [1, n] with the end mark; entities unescaped and white space collapsed as in training."""
    cleaned = " ".join(html.unescape(html.unescape(text)).split())
    ids = parts.tokenizer(cleaned, add_special_tokens=True, verbose=False).input_ids
    if len(ids) > parts.max_text_tokens and parts.defaults.clip_prompts:
        ids = parts.tokenizer(cleaned, truncation=True, max_length=parts.max_text_tokens).input_ids
    if len(ids) > parts.max_text_tokens:
        raise ModelError(
            f"the prompt has {counted(len(ids), 'token')}; the text encoder of {parts.folder} reads at most "
            f"{parts.max_text_tokens}: {cleaned[:60]!r}...",
            fix="shorten the prompt",
        )
    return torch.tensor([ids])


def embed(parts: WanParts, token_ids: Tensor) -> Tensor:
    """Text embeddings [1, max_text_tokens, D], zero after the last token, as the models were trained.

    Encoding without padding equals encoding with masked padding and costs a tenth of it for short prompts.
    """
    # a table that stays on the host takes its tokens there: sending them would only have them fetched back
    given = token_ids if "text_encoder" in parts.streamed else to_device(token_ids, parts.device)
    hidden = parts.text_encoder(input_ids=given).last_hidden_state
    padded: Tensor = nn.functional.pad(hidden, (0, 0, 0, parts.max_text_tokens - hidden.shape[1]))
    return padded
