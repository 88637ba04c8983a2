"""Constrained decoding by llguidance, an optional dependency: which tokens keep a reply inside a JSON schema.

Knows no model, only the tokenizer and the schema. Invariant: a reply that follows the masks to its end token
parses strictly; one cut off by the token limit may not.
Not done: tokens that are forced, since the mask leaves no other, could be written in the step of the token
before. They are 4 to 10 % of real critiques (2026-11-29; 16 of them, as patches and in full, vocabularies of
1089 and 40,000 words), and only of a retry, since a first try has no grammar.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# At most a few blanks in a row: unbounded white space lets a model spend all its tokens on it.
_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": r"[\x20\x0A]{1,4}"}


class Grammar:
    """The state of one reply."""

    def __init__(self, matcher: Any, vocab_size: int, eos_ids: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)

    def allowed(self) -> torch.Tensor:
        """bool [V] on the CPU; only the end tokens when nothing else can follow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = torch.from_numpy(np.unpackbits(bits, bitorder="little")[: self._vocab_size]).bool()
        if not bool(mask.any()):
            mask[self._eos_ids] = True
        return mask

    def consume(self, token: int) -> None:
        self._matcher.consume_token(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammars:
    """Makes grammars for one tokenizer; building it takes seconds for a large vocabulary."""

    tokenizer: Any  # llguidance.LLTokenizer
    vocab_size: int
    eos_ids: tuple[int, ...]

    def start(self, schema: dict[str, Any], *, written: str) -> Grammar:
        """The grammar of `schema` after the text `written`, which is the reply's beginning."""
        from llguidance import LLMatcher

        compiled = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=_OPTIONS)
        matcher = LLMatcher(self.tokenizer, compiled)
        matcher.consume_tokens(self.tokenizer.tokenize_str(written))
        assert not matcher.is_error(), matcher.get_error()
        return Grammar(matcher, self.vocab_size, self.eos_ids)


def build_grammars(tokenizer: Any, vocab_size: int, eos_ids: tuple[int, ...]) -> Grammars | None:
    """None where llguidance is not installed; `vocab_size` is the width of the model's logits."""
    if importlib.util.find_spec("llguidance") is None:
        return None
    from llguidance.hf import from_tokenizer

    wrapped = from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(eos_ids))
    return Grammars(tokenizer=wrapped, vocab_size=vocab_size, eos_ids=eos_ids)
