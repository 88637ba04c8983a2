"""A plan and a critique as a VLM writes them: what the schema's tests read and change."""

from __future__ import annotations

from typing import Any

PLAN: dict[str, Any] = {
    "objects": [{"name": "ball", "trait": "red"}],
    "motion": [{"object": "ball", "direction": "to the left", "speed": "slow"}],
    "events": [{"t": 2.5, "what": "the ball stops"}, {"t": 1.0, "what": "the ball hits the block"}],
    "rest": [{"object": "ball", "t": 2.5}, {"object": "block", "t": None}],
    "still": ["table"],
    "camera": "static",
}
REPLY: dict[str, Any] = {
    "seen": ["a ball rolls"],
    "expected": ["it hits the block"],
    "findings": [{"t": 1.5, "object": "block", "issue": "passes through the ball"}],
    "fault": "missing physical clues",
    "verdict": "revise",
    "score": 35,
    "plan": PLAN,
}
