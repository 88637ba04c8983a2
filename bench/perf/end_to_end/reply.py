"""The critic's one reply as a chain of tokens of its own, and the two tokenizers; no model in here.

Each token of the reply is a word of the vocabulary that stands nowhere else, so that embeddings and head can
name its successor (models.py): greedy decoding then writes this text, whatever the layers between do.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from engine.critics.qwen_vl.instructions import CRITIQUE_INSTRUCTION, PLAN_INSTRUCTION

END, PAD = "<|im_end|>", "<|endoftext|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
SPECIALS = (PAD, "<|im_start|>", END, VISION_START, VISION_END, IMAGE, VIDEO)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BEFORE_REPLY = "<|im_start|>assistant\n"
MOST_WORDS = 1500
PIECE = 4
"""Characters of a token of the reply, as many as real tokens have on average."""

SENTENCES = (
    "A red ball rolls over a wooden table towards a block. Static shot with no camera movement.",
    "A blue cube slides down a ramp and meets a pile of books. Static shot with no camera movement.",
    "Water runs into a glass that stands on a scale. Static shot with no camera movement.",
    "A pendulum swings into a row of dominoes. Static shot with no camera movement.",
)
PLAN = {
    "objects": [{"name": "ball", "trait": "red"}],
    "motion": [{"object": "ball", "direction": "to the right", "speed": "medium"}],
    "events": [{"t": 2.0, "what": "the ball meets the block"}],
    "rest": [{"object": "block", "t": 3.0}],
    "still": ["table"],
    "camera": "static",
}
CRITIQUE = {
    "expected": ["the ball falls to the floor"],
    "findings": [{"t": 1.5, "object": "ball", "issue": "it stops too early"}],
    "fault": "missing physical clues",
    "verdict": "revise",
    "score": 50,
    "plan": PLAN,
}


def reply_pieces(num_tokens: int, taken: Sequence[str]) -> list[str]:
    """`num_tokens` distinct texts, none `taken`: joined, a reply for plan and critique parser alike."""
    head, tail = '{"seen": ["', f'"], {json.dumps(CRITIQUE)[1:]}'
    used = set(taken)
    first, last = list(_cut(head, used)), list(_cut(tail, used))
    num_words = num_tokens - len(first) - len(last)
    assert num_words > 0, f"{num_tokens} tokens are too few: the frame alone has {len(first) + len(last)}"
    words = (word for i in itertools.count() if (word := f"w{i:03d} ") not in used)
    return [*first, *itertools.islice(words, num_words), *last]


def _cut(text: str, used: set[str]) -> Iterator[str]:
    """Pieces of PIECE characters, longer where that text is in `used`, which takes up what is cut."""
    while text:
        ends = (end for end in range(PIECE, len(text) - PIECE + 1) if text[:end] not in used)
        end = next(ends, len(text))
        assert text[:end] not in used, f"{text!r} is a token already"
        used.add(text[:end])
        yield text[:end]
        text = text[end:]


def critic_tokenizer(num_tokens: int) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """A byte-level tokenizer that reads prompts in whole words, and the ids of the reply's tokens."""
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=MOST_WORDS, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([PLAN_INSTRUCTION, CRITIQUE_INSTRUCTION, *SENTENCES], trainer)
    trained = json.loads(made.to_str())["model"]
    vocabulary: dict[str, int] = dict(trained["vocab"])
    space = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(" ")[0][0]
    pieces = reply_pieces(num_tokens, [word.replace(space, " ") for word in vocabulary])
    reply = [len(vocabulary) + i for i in range(len(pieces))]
    vocabulary |= {piece.replace(" ", space): i for piece, i in zip(pieces, reply, strict=True)}
    whole = Tokenizer(kinds.BPE(vocab=vocabulary, merges=[tuple(pair) for pair in trained["merges"]]))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token=END, pad_token=PAD)
    fast.add_special_tokens({"additional_special_tokens": list(SPECIALS)})
    fast.chat_template = TEMPLATE
    assert fast.decode(reply) == "".join(pieces), "the tokenizer does not write the reply"
    return fast, reply


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
