"""What the demo critic is asked and what it should answer: prompts and target replies as text.

Replies are the same JSON that published models are asked for. The stages come before the verdict, so that the
verdict can be read off the comparison of "seen" and "expected". Knows frames only through their windows.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from engine.demo.scenes.base import FPS
from engine.demo.scenes.broken import SENTENCES, Violation
from engine.demo.training.clips import PREFIX_WINDOW_FRAMES
from engine.demo.training.windows import ACCEPT_SCORE, WINDOW_FRAMES, Window, agreement_score, window_mismatch
from engine.types import Fault, PhysicsPlan, Verdict

PLAN_INSTRUCTION: Final = "Plan."
CRITIQUE_INSTRUCTION: Final = "Critique."
NUM_PREFIX_FRAMES: Final = 12  # six pairs: one for each prefix window
NUM_TAKE_FRAMES: Final = 16  # eight pairs: one for each answer window
MAX_NEW_TOKENS: Final = 512
MAX_FINDINGS: Final = 3
FINDING_MISMATCH: Final = 0.4
ACCEPT_CASE_SCORE: Final = 70.0
"""A take is acceptable from this Verified case score on, fixed before any critic was trained on it. The wide
world's experiments, repeated with 2, 4 and 10 times an experimenter's tolerance (times off by 0.1, 0.2 and
0.5 s), have mean scores of 89, 78 and 63."""

CHAT_TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def plan_dict(plan: PhysicsPlan) -> dict[str, Any]:
    """The plan as the critic writes it, times on a clock of half seconds."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    for entry in (*data["events"], *data["rest"]):
        if entry["t"] is not None:
            entry["t"] = round(entry["t"] * 2) / 2
    return data


def window_texts(windows: list[Window], window_frames: int = WINDOW_FRAMES) -> list[str]:
    return [window.text((index + 1) * window_frames / FPS) for index, window in enumerate(windows)]


def plan_reply(prefix: list[Window], plan: PhysicsPlan) -> str:
    """The target of the plan task: what moves in the prefix, then the plan."""
    return _dump({"seen": window_texts(prefix, PREFIX_WINDOW_FRAMES), "plan": plan_dict(plan)})


def findings(seen: list[Window], expected: list[Window], mover: str) -> list[dict[str, Any]]:
    """The first MAX_FINDINGS windows that do not agree, told about the thing that moves."""
    found: list[dict[str, Any]] = []
    for index, (one, other) in enumerate(zip(seen, expected, strict=True)):
        if window_mismatch(one, other) < FINDING_MISMATCH:
            continue
        if one.amount == 0:
            issue = f"stands still but should move at {other.x},{other.y}"
        elif other.amount == 0:
            issue = f"moves at {one.x},{one.y} but should be at rest"
        else:
            issue = f"moves at {one.x},{one.y} but should move at {other.x},{other.y}"
        time_s = round((index + 0.5) * WINDOW_FRAMES / FPS, 1)
        found.append({"t": time_s, "object": mover, "issue": issue})
    return found[:MAX_FINDINGS]


def true_verdict(seen: list[Window], expected: list[Window]) -> Verdict:
    """The label that the critic is trained on and measured against where no case score is known."""
    return Verdict.ACCEPT if agreement_score(seen, expected) >= ACCEPT_SCORE else Verdict.REVISE


def case_verdict(score: float) -> Verdict:
    """The label of a take by its Verified case score in percent."""
    return Verdict.ACCEPT if score >= ACCEPT_CASE_SCORE else Verdict.REVISE


def critique_reply(
    seen: list[Window],
    expected: list[Window],
    plan: PhysicsPlan,
    fault: Fault,
    case_score: float | None = None,
    violation: Violation | None = None,
) -> str:
    """The target of the critique task. `fault` is named only if the take is not acceptable.

    A violation that the take shows is the first of its findings, with the time from which it does.

    Verdict and score are those of `case_score`, in percent, where it is known, else of the windows.
    """
    score = agreement_score(seen, expected) if case_score is None else case_score
    verdict = true_verdict(seen, expected) if case_score is None else case_verdict(case_score)
    accepted = verdict is Verdict.ACCEPT
    mover = plan.motion[0].object if plan.motion else plan.objects[0].name
    told = findings(seen, expected, mover)
    if violation is not None:
        told.insert(0, {"t": violation.t, "object": mover, "issue": SENTENCES[violation.name]})
    return _dump(
        {
            "seen": window_texts(seen),
            "expected": window_texts(expected),
            "findings": [] if accepted else told[:MAX_FINDINGS],
            "fault": str(Fault.NONE if accepted else fault),
            "verdict": str(verdict),
            "score": 5 * round(score / 5),
            "plan": plan_dict(plan),
        }
    )


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"))
