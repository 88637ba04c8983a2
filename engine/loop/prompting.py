"""From a physics plan to the sentence the generator reads: deterministic code, never the VLM.

The same compile runs in training, in the loop and in the tests, so the generator only ever sees one style of
prompt. Knows nothing of models; the invariant is that equal plans give equal text.
"""

from __future__ import annotations

import difflib
import re

from engine.types import PhysicsPlan, PlanObject

CAMERA_SENTENCE = "Static shot with no camera movement."


def strip_camera(text: str) -> str:
    """The brief without its camera sentence (Physics-IQ prompts nearly all end with one)."""
    return text.replace(CAMERA_SENTENCE, "").strip()


def compile_prompt(brief: str, plan: PhysicsPlan) -> str:
    """Plan to prompt: scene, what is there, how it moves, what happens when, what ends still, camera.

    Times are seconds after the switch, rounded to half seconds: a finer clock is not readable from a prefix.
    """
    sentences = [strip_camera(brief)]
    objects = [phrase for entry in plan.objects if (phrase := _with_article(entry))]
    if objects:
        sentences.append(f"There is {_listing(objects)}.")
    sentences += [f"The {m.object} moves {m.direction} at {m.speed} speed." for m in plan.motion]
    sentences += [f"At {_half_seconds(e.t)} s {e.what}." for e in plan.events]
    for rest in plan.rest:
        if rest.t is None:
            sentences.append(f"The {rest.object} keeps moving until the end.")
        else:
            sentences.append(f"The {rest.object} is at rest from {_half_seconds(rest.t)} s.")
    if plan.still:
        verb = "stays" if len(plan.still) == 1 else "stay"
        sentences.append(f"The {_listing(list(plan.still))} {verb} still.")
    camera = CAMERA_SENTENCE if plan.camera == "static" else f"The camera is {plan.camera}."
    return " ".join([*sentences, camera])


def text_distance(a: str, b: str) -> float:
    """Share of words that differ, 0 (equal) to 1 (nothing in common): 1 - difflib ratio over words."""
    return 1.0 - difflib.SequenceMatcher(None, _words(a), _words(b), autojunk=False).ratio()


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9.]+", text.lower())


def _half_seconds(t: float) -> str:
    return f"{round(t * 2) / 2:.1f}"


def _with_article(entry: PlanObject) -> str:
    """Trait and name after their article; empty for an object of which a critic told neither."""
    phrase = f"{entry.trait} {entry.name}".strip()
    if not phrase or phrase.split()[0] in ("two", "three", "four", "five", "six"):
        return phrase
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _listing(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
