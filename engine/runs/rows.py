"""Rows of the run store and the values they hold, both ways.

Knows no connection. Each function that reads raises KeyError, TypeError or ValueError on another shape.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.runs.from_json import critique_from_dict, plan_reply_from_dict, prompt_from_dict
from engine.types import Attempt, Clip, PlanReply, Scenario
from kernels.files import parse_json


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
    return plan_reply_from_dict(parse_json(row[0]))


def read_attempt(row: tuple[Any, ...]) -> Attempt:
    number, prompt, video_path, critique, selector_scores, timings, round_number, sample, device = row
    return Attempt(
        index=number,
        prompt=prompt_from_dict(parse_json(prompt)),
        video_path=Path(video_path),
        critique=None if critique is None else critique_from_dict(parse_json(critique)),
        round=round_number,
        sample=sample,
        selector_scores=parse_json(selector_scores),
        timings=parse_json(timings),
        device=device,
    )
