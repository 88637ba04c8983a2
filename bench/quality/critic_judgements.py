"""What of a critic's reply judges, fault, verdict and score: cut out of one, or all that can be written.

A critic is constrained to the latter as to a grammar (`engine.critics.qwen_vl.grammar`), but without a
package for grammars: there are a few hundred of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import torch

from engine.types import Fault, Verdict

SCORES: Final = range(0, 101, 5)
"""In the steps in which the bundled critic was trained to write them."""
_FAULT: Final = re.compile(r'"fault"\s*:\s*"')
_SCORE: Final = re.compile(r'"score"\s*:\s*(?:"[^"]*"|[^\s",{}\[\]]+)(?=\s*[,}])')


def judgement(text: str) -> str:
    """A reply up to its score, closed; as it is where no score is written to its end."""
    match = _SCORE.search(text)
    return text if match is None else f"{text[: match.end()]}}}"


def stages(text: str) -> str | None:
    """A reply behind its thoughts up to where its fault begins; None where it names none."""
    answer = text.rpartition("</think>")[-1]
    start, fault = answer.find("{"), _FAULT.search(answer)
    return None if fault is None or start < 0 else f'{answer[start : fault.start()]}"fault":"'


def judgement_replies() -> list[str]:
    """What may follow the opening quote of a fault, up to what comes behind the score in a whole critique."""
    verdicts = (Verdict.ACCEPT, Verdict.REVISE)
    return [
        f'{fault}","verdict":"{verdict}","score":{score},"'
        for fault, verdict, score in product(Fault, verdicts, SCORES)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """In place of `engine.critics.qwen_vl.grammar.Grammars`. replies: the tokens of each."""

    replies: Sequence[tuple[int, ...]]
    vocab_size: int
    eos_ids: tuple[int, ...]

    @classmethod
    def of(cls, critic: Any) -> Judgements:
        """critic: a loaded one of engine/critics/qwen_vl."""
        told = critic.tokenizer(judgement_replies(), add_special_tokens=False)["input_ids"]
        vocab_size = critic.model.config.get_text_config().vocab_size
        return cls(replies=[tuple(ids) for ids in told], vocab_size=vocab_size, eos_ids=critic.eos_ids)

    def start(self, schema: dict[str, Any], *, written: str) -> OneJudgement:
        """Behind a text that ends where a fault begins; the schema is that of whole replies."""
        assert written.endswith('"fault":"'), written
        return OneJudgement(self)


class OneJudgement:
    """The state of one reply, in place of `engine.critics.qwen_vl.grammar.Grammar`."""

    def __init__(self, among: Judgements) -> None:
        self._among = among
        self._left = list(among.replies)
        self._num_written = 0

    def allowed(self) -> torch.Tensor:
        """bool [V] on the CPU; the end tokens once a reply is whole."""
        place = self._num_written
        mask = torch.zeros(self._among.vocab_size, dtype=torch.bool)
        for reply in self._left:
            mask[reply[place] if len(reply) > place else list(self._among.eos_ids)] = True
        return mask

    def consume(self, token: int) -> None:
        place = self._num_written
        self._left = [reply for reply in self._left if len(reply) > place and reply[place] == token]
        self._num_written += 1
