"""Rows of the run store and the values they hold, both ways.

Knows no connection. Each function that reads raises TypeError or ValueError on another shape or type; a key
that is not known is left out, as later versions may add some.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from engine.types import Attempt, Clip, Critique, PlanReply, Prompt, Scenario, Scout, ScoutForm

_PLAN, _PROMPT, _CRITIQUE = TypeAdapter(PlanReply), TypeAdapter(Prompt), TypeAdapter(Critique)
_FORM = TypeAdapter(ScoutForm)
_NUMBERS = TypeAdapter(dict[str, float])


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def scenario_row(position: int, scenario: Scenario) -> tuple[object, ...]:
    clip = scenario.prefix
    return (
        position,
        scenario.id,
        scenario.text,
        scenario.category,
        scenario.output_name,
        str(clip.path),
        clip.fps,
        clip.num_frames,
        clip.width,
        clip.height,
    )


def read_scenario(row: tuple[Any, ...]) -> Scenario:
    _, scenario_id, text, category, output_name, path, fps, num_frames, width, height = row
    words, sizes = (scenario_id, text, category, output_name, path), (num_frames, width, height)
    if not all(isinstance(word, str) for word in words) or not all(isinstance(size, int) for size in sizes):
        raise TypeError(f"scenario {scenario_id!r} holds {row!r}")
    return Scenario(
        id=scenario_id,
        text=text,
        category=category,
        output_name=output_name,
        prefix=Clip(path=Path(path), fps=float(fps), num_frames=num_frames, width=width, height=height),
    )


def read_plan(row: tuple[Any, ...]) -> PlanReply:
    return _PLAN.validate_json(row[0], strict=True)


def read_attempt(row: tuple[Any, ...]) -> Attempt:
    number, prompt, video_path, critique, selector_scores, timings, round_number, sample, device = row
    return Attempt(
        index=number,
        prompt=_PROMPT.validate_json(prompt, strict=True),
        video_path=Path(video_path),
        critique=None if critique is None else _CRITIQUE.validate_json(critique, strict=True),
        round=round_number,
        sample=sample,
        selector_scores=_NUMBERS.validate_json(selector_scores, strict=True),
        timings=_NUMBERS.validate_json(timings, strict=True),
        device=device,
    )


def scout_row(scenario_id: str, scout: Scout, video_sha256: str) -> tuple[object, ...]:
    """Scenario, then `SCOUT_COLUMNS` of the database, then the digest."""
    return (
        scenario_id,
        scout.number,
        scout.round,
        scout.stage,
        scout.candidate,
        dumps(asdict(scout.prompt)),
        dumps(asdict(scout.form)),
        scout.video_path.as_posix(),
        dumps(scout.scores),
        scout.place,
        int(scout.kept),
        dumps(scout.timings),
        scout.device,
        video_sha256,
    )


def read_scout(row: tuple[Any, ...]) -> Scout:
    number, round_number, stage, candidate, prompt, form, video_path, scores, place, kept, timings, device = (
        row
    )
    if not all(isinstance(value, int) for value in (number, round_number, stage, candidate, kept)):
        raise TypeError(f"scout {number!r} holds {row!r}")
    return Scout(
        number=number,
        round=round_number,
        stage=stage,
        candidate=candidate,
        prompt=_PROMPT.validate_json(prompt, strict=True),
        form=_FORM.validate_json(form, strict=True),
        video_path=Path(video_path),
        scores=_NUMBERS.validate_json(scores, strict=True),
        place=place,
        kept=bool(kept),
        timings=_NUMBERS.validate_json(timings, strict=True),
        device=device,
    )
