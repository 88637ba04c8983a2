"""The values that the run store keeps as JSON, read back from `dataclasses.asdict` and JSON.

Knows no file and no table. Each function raises KeyError, TypeError or ValueError on another shape.
"""

from __future__ import annotations

from typing import Any

from engine.types import Critique, Fault, Finding, PhysicsPlan, PlanReply, Prompt, Verdict


def plan_reply_from_dict(data: dict[str, Any]) -> PlanReply:
    return PlanReply(
        plan=_optional_plan(data["plan"]),
        raw=data["raw"],
        num_tokens=data["num_tokens"],
        seconds=data["seconds"],
    )


def prompt_from_dict(data: dict[str, Any]) -> Prompt:
    return Prompt(
        text=data["text"],
        negative=data["negative"],
        seed=data["seed"],
        revision=data["revision"],
        plan=_optional_plan(data["plan"]),
    )


def critique_from_dict(data: dict[str, Any]) -> Critique:
    return Critique(
        verdict=Verdict(data["verdict"]),
        score=data["score"],
        seen=tuple(data["seen"]),
        expected=tuple(data["expected"]),
        findings=tuple(
            Finding(t=entry["t"], object=entry["object"], issue=entry["issue"]) for entry in data["findings"]
        ),
        fault=Fault(data["fault"]),
        revised=_optional_plan(data["revised"]),
        raw=data["raw"],
        num_tokens=data["num_tokens"],
        seconds=data["seconds"],
        problem=data.get("problem"),  # older stores do not have it
    )


def _optional_plan(data: dict[str, Any] | None) -> PhysicsPlan | None:
    return None if data is None else PhysicsPlan.from_dict(data)
