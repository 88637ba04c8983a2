"""A critique that says nothing but its score, for tests that need one and do not read it."""

from __future__ import annotations

from engine.types import Critique, Fault, Verdict


def bare_critique(score: float | None) -> Critique:
    """Not accepted; unreadable without a score."""
    return Critique(
        verdict=Verdict.UNREADABLE if score is None else Verdict.REVISE,
        score=score,
        seen=(),
        expected=(),
        findings=(),
        fault=Fault.NONE,
        revised=None,
        raw="",
        num_tokens=0,
        seconds=0.0,
    )
