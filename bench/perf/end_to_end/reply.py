"""The critic's three replies, each a chain of tokens of its own, and the two tokenizers; no model in here.

Each token of a reply is a word of the vocabulary that stands nowhere else, so that embeddings and head can
name its successor (models.py): greedy decoding then writes this text, whatever the layers between do. The
chat template ends each kind of prompt with a token of its own, which the first token of its reply follows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from engine.critics.qwen_vl.instructions import CRITIQUE_INSTRUCTION, PATCH_INSTRUCTION, PLAN_INSTRUCTION
from engine.critics.qwen_vl.plan_patch import patch_of
from engine.types import PhysicsPlan

END, PAD = "<|im_end|>", "<|endoftext|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
FOR_PLAN, FOR_CRITIQUE, FOR_PATCH = "<|plan|>", "<|critique|>", "<|patch|>"
SPECIALS = (
    PAD,
    "<|im_start|>",
    END,
    VISION_START,
    VISION_END,
    IMAGE,
    VIDEO,
    FOR_PLAN,
    FOR_CRITIQUE,
    FOR_PATCH,
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% set asked = messages[-1]['content'] %}"
    f"{{% if '\nPlan: {{' in asked %}}{FOR_PATCH}"
    f"{{% elif '\nPrompt of the generated video: ' in asked %}}{FOR_CRITIQUE}"
    f"{{% else %}}{FOR_PLAN}{{% endif %}}{{% endif %}}"
)
MOST_WORDS = 1500
PIECE = 4
"""Characters of a token of a reply, as many as real tokens have on average."""

SENTENCES = (
    "A red ball rolls over a wooden table towards a block. Static shot with no camera movement.",
    "A blue cube slides down a ramp and meets a pile of books. Static shot with no camera movement.",
    "Water runs into a glass that stands on a scale. Static shot with no camera movement.",
    "A pendulum swings into a row of dominoes. Static shot with no camera movement.",
)
# A plan and the one of its first critique, as the bundled critic wrote them of scenario 0004 of `retake demo`
# (commit fbb42fa, seed 0). Of the 5 of 16 critiques there that changed the plan, this one is the median.
PLAN: Mapping[str, Any] = {
    "objects": [{"name": "lamp", "trait": "yellow"}, {"name": "block", "trait": "low blue"}],
    "motion": [
        {"object": "lamp", "direction": "left", "speed": "fast"},
        {"object": "shadow", "direction": "right", "speed": "medium"},
    ],
    "events": [{"t": 1.0, "what": "the lamp hits the end stop and the shadow is long on the right"}],
    "rest": [{"object": "lamp", "t": 1.0}, {"object": "shadow", "t": 1.0}],
    "still": ["blue block"],
    "camera": "static",
}
REVISED: Mapping[str, Any] = {
    **PLAN,
    "events": [{"t": 1.5, "what": "the lamp hits the end stop and the shadow is long on the right"}],
    "rest": [{"object": "lamp", "t": 1.5}, {"object": "shadow", "t": 1.5}],
}
PATCH = patch_of(PhysicsPlan.from_dict(dict(PLAN)), PhysicsPlan.from_dict(dict(REVISED))).to_dict()
JUDGED = {
    "expected": ["the lamp stops at the end of its rail"],
    "findings": [{"t": 1.5, "object": "lamp", "issue": "it stops too early"}],
    "fault": "missing physical clues",
    "verdict": "revise",
    "score": 50,
}


def patch_tokens(reply_tokens: int) -> int:
    """Of a critique as a patch, where a full one has `reply_tokens`: the fields that stay are not written."""
    return reply_tokens - round((len(_dump(REVISED)) - len(_dump(PATCH))) / PIECE)


def reply_pieces(num_tokens: int, taken: Sequence[str]) -> dict[str, list[str]]:
    """By the token before it, each reply as distinct texts, none of them `taken`.

    Joined, they are a plan and a critique of `num_tokens`, and that critique as a patch. What is seen is
    filled up with words.
    """
    used, words = set(taken), (f"w{i:03d} " for i in itertools.count())

    def pieces(kind: str, said: Mapping[str, Any], count: int) -> list[str]:
        first, last = list(_cut(f'{{"seen":["{kind}: ', used)), list(_cut(f'"],{_dump(said)[1:]}', used))
        left = count - len(first) - len(last)
        assert left > 0, f"{count} tokens are too few: the frame alone has {len(first) + len(last)}"
        return [*first, *itertools.islice((word for word in words if word not in used), left), *last]

    return {
        FOR_PLAN: pieces("plan", {"plan": PLAN}, num_tokens),
        FOR_CRITIQUE: pieces("critique", {**JUDGED, "plan": REVISED}, num_tokens),
        FOR_PATCH: pieces("patch", {**JUDGED, "plan": PATCH}, patch_tokens(num_tokens)),
    }


def _dump(data: Mapping[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))


def _cut(text: str, used: set[str]) -> Iterator[str]:
    """Pieces of PIECE characters, longer where that text is in `used`, which takes up what is cut."""
    while text:
        ends = (end for end in range(PIECE, len(text) - PIECE + 1) if text[:end] not in used)
        end = next(ends, len(text))
        assert text[:end] not in used, f"{text!r} is a token already"
        used.add(text[:end])
        yield text[:end]
        text = text[end:]


def critic_tokenizer(num_tokens: int) -> tuple[PreTrainedTokenizerFast, dict[str, list[int]]]:
    """A byte-level tokenizer that reads prompts in whole words, and the replies by the token before them."""
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=MOST_WORDS, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([PLAN_INSTRUCTION, CRITIQUE_INSTRUCTION, PATCH_INSTRUCTION, *SENTENCES], trainer)
    trained = json.loads(made.to_str())["model"]
    vocabulary: dict[str, int] = dict(trained["vocab"])
    space = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(" ")[0][0]
    texts = reply_pieces(num_tokens, [word.replace(space, " ") for word in vocabulary])
    ids = itertools.count(len(vocabulary))
    replies = {start: list(itertools.islice(ids, len(pieces))) for start, pieces in texts.items()}
    for start, pieces in texts.items():
        words = (piece.replace(" ", space) for piece in pieces)
        vocabulary |= dict(zip(words, replies[start], strict=True))
    whole = Tokenizer(kinds.BPE(vocab=vocabulary, merges=[tuple(pair) for pair in trained["merges"]]))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token=END, pad_token=PAD)
    fast.add_special_tokens({"additional_special_tokens": list(SPECIALS)})
    fast.chat_template = TEMPLATE
    for start, pieces in texts.items():
        assert fast.decode(replies[start]) == "".join(pieces), f"the tokenizer does not write {start}"
    return fast, replies


def text_tokenizer(extra: Sequence[str] = ()) -> Any:
    """Of the generator's text encoder: sentence pieces, read to at most 512 tokens."""
    made = Tokenizer(kinds.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(  # nosec B106 # tokens of a vocabulary
        vocab_size=MOST_WORDS,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    made.train_from_iterator([PLAN_INSTRUCTION, json.dumps(PLAN), *SENTENCES, *extra], trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(  # nosec B106 # tokens of a vocabulary
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        padding_side="right",
    )
