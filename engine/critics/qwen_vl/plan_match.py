"""How much of a physics plan another plan holds, attribute by attribute: of a true one, or of another's.

Knows no model and no file. Words must agree up to case, punctuation and spaces; times within half a second,
which is as fine as prompts tell them.
"""

from __future__ import annotations

import re
from collections import Counter

from engine.types import PhysicsPlan, PlanEvent, PlanMotion, PlanRest

TIME_TOLERANCE_S = 0.5
NEVER = "never"
_TIMED = ("event:", "rest:")


def plan_attributes(plan: PhysicsPlan) -> dict[str, str]:
    """A plan flattened: "motion:red ball:direction" -> "right", "rest:red ball" -> "2.5" or "never", ...

    Events are keyed by what happens and how often it happened before: "turns back" twice is two entries.
    """
    attributes = {f"object:{words(f'{o.trait} {o.name}')}": "present" for o in plan.objects}
    for motion in plan.motion:
        attributes[f"motion:{words(motion.object)}:direction"] = words(motion.direction)
        attributes[f"motion:{words(motion.object)}:speed"] = words(motion.speed)
    happened: Counter[str] = Counter()
    for event in plan.events:
        what = words(event.what)
        attributes[f"event:{what}#{happened[what]}"] = repr(float(event.t))
        happened[what] += 1
    for rest in plan.rest:
        attributes[f"rest:{words(rest.object)}"] = NEVER if rest.t is None else repr(float(rest.t))
    attributes |= {f"still:{words(name)}": "still" for name in plan.still}
    return attributes | {"camera": words(plan.camera)}


def matched_share(truth: PhysicsPlan, found: PhysicsPlan) -> float:
    """Share in [0, 1] of the attributes of `truth` that `found` holds with the same value."""
    wanted, given = plan_attributes(truth), plan_attributes(found)
    return sum(_agree(key, value, given.get(key)) for key, value in wanted.items()) / len(wanted)


def agreement(one: PhysicsPlan, other: PhysicsPlan) -> float:
    """In [0, 1]: the mean of what each holds of the other, 1 for plans that say the same."""
    return (matched_share(one, other) + matched_share(other, one)) / 2


def _agree(key: str, truth: str, found: str | None) -> bool:
    if found is None or truth == found:
        return found is not None
    if not key.startswith(_TIMED) or NEVER in (truth, found):
        return False
    return same_time(float(truth), float(found))


def same_time(one: float | None, other: float | None) -> bool:
    """None is never."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= TIME_TOLERANCE_S + 1e-9


def is_true(fact: PlanMotion | PlanEvent | PlanRest, truth: PhysicsPlan) -> dict[str, bool]:
    """Whether the truth has the fact, by what of it is asked: "event" with its time and "event what" without;
    "motion" with its direction and "speed" alone; "rest" with its time, or that there is none."""
    if isinstance(fact, PlanEvent):
        times = [event.t for event in truth.events if words(event.what) == words(fact.what)]
        return {"event": any(same_time(t, fact.t) for t in times), "event what": bool(times)}
    if isinstance(fact, PlanMotion):
        moves = [motion for motion in truth.motion if words(motion.object) == words(fact.object)]
        return {
            "motion": any(words(motion.direction) == words(fact.direction) for motion in moves),
            "speed": any(words(motion.speed) == words(fact.speed) for motion in moves),
        }
    rests = [rest.t for rest in truth.rest if words(rest.object) == words(fact.object)]
    return {"rest": any(same_time(t, fact.t) for t in rests)}


def words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
