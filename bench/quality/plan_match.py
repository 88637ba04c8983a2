"""How much of a true physics plan another plan holds, attribute by attribute.

Knows no model and no file. Words must agree up to case, punctuation and spaces; times within half a second,
which is as fine as prompts tell them.
"""

from __future__ import annotations

import re
from collections import Counter

from engine.types import PhysicsPlan

TIME_TOLERANCE_S = 0.5
NEVER = "never"
_TIMED = ("event:", "rest:")


def plan_attributes(plan: PhysicsPlan) -> dict[str, str]:
    """A plan flattened: "motion:red ball:direction" -> "right", "rest:red ball" -> "2.5" or "never", ...

    Events are keyed by what happens and how often it happened before: "turns back" twice is two entries.
    """
    attributes = {f"object:{_words(f'{o.trait} {o.name}')}": "present" for o in plan.objects}
    for motion in plan.motion:
        attributes[f"motion:{_words(motion.object)}:direction"] = _words(motion.direction)
        attributes[f"motion:{_words(motion.object)}:speed"] = _words(motion.speed)
    happened: Counter[str] = Counter()
    for event in plan.events:
        what = _words(event.what)
        attributes[f"event:{what}#{happened[what]}"] = repr(float(event.t))
        happened[what] += 1
    for rest in plan.rest:
        attributes[f"rest:{_words(rest.object)}"] = NEVER if rest.t is None else repr(float(rest.t))
    attributes |= {f"still:{_words(name)}": "still" for name in plan.still}
    return attributes | {"camera": _words(plan.camera)}


def matched_share(truth: PhysicsPlan, found: PhysicsPlan) -> float:
    """Share in [0, 1] of the attributes of `truth` that `found` holds with the same value."""
    wanted, given = plan_attributes(truth), plan_attributes(found)
    return sum(_agree(key, value, given.get(key)) for key, value in wanted.items()) / len(wanted)


def _agree(key: str, truth: str, found: str | None) -> bool:
    if found is None or truth == found:
        return found is not None
    if not key.startswith(_TIMED) or NEVER in (truth, found):
        return False
    return abs(float(truth) - float(found)) <= TIME_TOLERANCE_S + 1e-9


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
