"""What a critic is told: instruction texts, their order around the clips, and the ChatML envelope.

Does not know how a reply is parsed (schema.py) or run (critic.py). Invariant: fixed text first, then the
prefix, then the take, then the text of this loop, so that the keys and values of everything before the take
can be reused for all takes of one scenario.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine.critics.qwen_vl.preprocess import Segment, VideoSegment, plain_text
from engine.types import ANSWER_SECONDS, PREFIX_SECONDS, PhysicsPlan

_CLOCK = (
    f"The first video is real footage of the {PREFIX_SECONDS:.0f} seconds before the switch. All times you "
    f"write are seconds after the switch, from 0 to {ANSWER_SECONDS:.0f}."
)

_PLAN_SCHEMA = """{"objects": [{"name": str, "trait": str}],
 "motion": [{"object": str, "direction": str, "speed": str}],
 "events": [{"t": number, "what": str}],
 "rest": [{"object": str, "t": number or null}],
 "still": [str],
 "camera": str}"""

_PLAN_MEANING = """- objects: what takes part, each with the trait that tells it apart (colour, side, size).
- motion: for each object that moves, direction ("to the left", "down", "clockwise") and speed ("slow",
  "medium", "fast"), as measured between the frames.
- events: what happens, in the order in which it happens, with its time: contacts, falls, fillings, changes
  of shape, light or temperature.
- rest: when each moving object comes to rest; null if it still moves at the end.
- still: what must not move or change. camera: "static", or how the camera moves."""

PLAN_INSTRUCTION = f"""You predict what physics will do next. {_CLOCK}
Look at the frames in pairs: each pair is close in time, so the difference between its frames is motion. Then
read the brief description and reason in three steps: what is there and how it moves now; which laws act on it
(gravity, contact, friction, inertia, conservation of mass and energy, buoyancy, heat flow, reflection,
magnetic force); what therefore happens during the next {ANSWER_SECONDS:.0f} seconds, and what does not. Write
down only what the frames or physics imply; keep every phrase short and concrete.
Reply with one JSON object and nothing else:
{_PLAN_SCHEMA}
{_PLAN_MEANING}"""

_CRITIQUE_TASK = f"""You check whether a generated video obeys physics. {_CLOCK} The second video is the
generated continuation; its clock starts at the switch."""

_STAGES = f"""Work in stages:
1. seen: describe what the second video shows, in order, without judging it.
2. expected: say what physics and the first video imply for the same {ANSWER_SECONDS:.0f} seconds.
3. findings: compare the two and name every inconsistency with its time and its object: things that appear,
   vanish, merge or change shape or colour; wrong direction, speed or timing; motion without a cause, or a
   cause without an effect; objects that pass through each other; things that should rest but move, or the
   reverse; a moving camera.
4. fault: decide what caused the findings. "missing physical clues": the prompt leaves out a fact that the
   generator needed. "too complex": it asks for more than can be followed. "too abstract": it names no
   concrete motion. "wrong fact": it states something that the first video contradicts. "model": the prompt is
   right and the generator did not follow it. "none": there are no findings.
5. verdict: "accept" if a careful physicist would find no serious inconsistency, else "revise". score: 0
   (physically impossible) to 100 (cannot be told from the real continuation)."""

_CRITIQUE_SCHEMA = """{"seen": [str], "expected": [str],
 "findings": [{"t": number, "object": str, "issue": str}],
 "fault": "missing physical clues" | "too complex" | "too abstract" | "wrong fact" | "model" | "none",
 "verdict": "accept" | "revise", "score": number,
 "plan": """

CRITIQUE_INSTRUCTION = f"""{_CRITIQUE_TASK}
{_STAGES}
6. plan: the corrected plan of what should happen, from which the next prompt is written.
Reply with one JSON object and nothing else:
{_CRITIQUE_SCHEMA}{_PLAN_SCHEMA}}}
{_PLAN_MEANING}"""

PATCH_INSTRUCTION = f"""{_CRITIQUE_TASK} The plan of what should
happen stands at the end, as JSON.
{_STAGES}
6. plan: what must change in that plan, from which the next prompt is written. Write only the fields that must
   change, each one whole, with those of its entries that stay; leave out the others. {{}} if nothing must
   change.
Reply with one JSON object on one line and nothing else:
{_CRITIQUE_SCHEMA}{{the fields that must change}}}}
The fields of a plan:
{_PLAN_SCHEMA}
{_PLAN_MEANING}"""

RETRY_SENTENCE = "JSON only. Keep it short."

_BRACE, _THINK = "{", "<think>"
_SWITCH = "\nThe switch. Generated continuation:\n"
_CLIP_MARK = "\x00"  # stands for a clip while the chat template runs; cannot be typed in a prompt


def plan_segments(
    tokenizer: Any, instruction: str, prefix: VideoSegment, brief: str, *, retry: bool = False
) -> list[Segment]:
    """The prompt of step 1: instruction, prefix frames, brief description. `retry` prefills the brace."""
    tail = f"\nBrief description: {_one_line(brief)}"
    return _enveloped(tokenizer, [f"{instruction}\n", prefix, tail], retry=retry)


def critique_segments(
    tokenizer: Any,
    instruction: str,
    prefix: VideoSegment,
    take: VideoSegment,
    prompt: str,
    *,
    plan: PhysicsPlan | None = None,
    retry: bool = False,
    begun: str = "",
) -> list[Segment]:
    """The prompt of step 2: instruction, prefix frames, take frames, the prompt that made the take.

    `plan`: the one that the reply is to change, where the instruction says so. `begun`: what is written of
    the reply already.
    """
    tail = f"\nPrompt of the generated video: {_one_line(prompt)}"
    if plan is not None:
        tail += f"\nPlan: {_one_line(json.dumps(asdict(plan), ensure_ascii=False, separators=(',', ':')))}"
    return _enveloped(tokenizer, [f"{instruction}\n", prefix, _SWITCH, take, tail], retry=retry, begun=begun)


def opening(segments: Sequence[Segment], *, retry: bool, begun: str = "") -> str:
    """What of the reply the prompt has written already: what was begun for it, the brace of a retry, or the
    mark of thoughts."""
    last = segments[-1]
    thinks = isinstance(last, str) and last.rstrip().endswith(_THINK)
    return begun or (_BRACE if retry else _THINK if thinks else "")


def _one_line(text: str) -> str:
    return plain_text(" ".join(text.replace(_CLIP_MARK, " ").split()))


def _enveloped(tokenizer: Any, content: Sequence[Segment], *, retry: bool, begun: str = "") -> list[Segment]:
    """Puts one user turn into the tokenizer's chat template, or into plain ChatML when it has none."""
    clips = [part for part in content if isinstance(part, VideoSegment)]
    text = "".join(_CLIP_MARK if isinstance(part, VideoSegment) else part for part in content)
    if retry:
        text = f"{text}\n{RETRY_SENTENCE}"
    if getattr(tokenizer, "chat_template", None):
        message = {"role": "user", "content": text}
        chat = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    else:
        chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    written = begun or (_BRACE if retry else "")
    if written:
        if chat.rstrip().endswith(_THINK):  # a template that opens the thoughts: here they stay empty
            chat = f"{chat.rstrip()}\n\n</think>\n\n"
        chat += written
    pieces = chat.split(_CLIP_MARK)
    assert len(pieces) == len(clips) + 1, f"chat template kept {len(pieces) - 1} of {len(clips)} clips"
    segments: list[Segment] = [pieces[0]]
    for clip, piece in zip(clips, pieces[1:], strict=True):
        segments += [clip, piece]
    return segments
