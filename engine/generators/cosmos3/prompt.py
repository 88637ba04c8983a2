"""A prompt as Cosmos3 reads it: JSON compiled from the plan, length and size of the video behind it, tokens.

Deterministic code, never a model. The keys and their order are those of NVIDIA's prompts for Physics-IQ
(github.com/NVIDIA/cosmos, evaluation/cosmos3/Physics_IQ); ids are those of diffusers' pipeline. Knows no
tower. L text tokens
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from engine.errors import ModelError
from engine.generators.cosmos3.settings import INVERSE, NONE, Cosmos3Defaults
from engine.types import PhysicsPlan, Prompt, VideoSpec
from engine.words import counted

SYSTEM = "You are a helpful assistant who will generate videos from a give prompt."
"""As in training, with its spelling."""
LENGTH = "The video {verb} {seconds:.1f} seconds long and {verb} of {fps:.0f} FPS."
SIZE = "This video {verb} of {height}x{width} resolution."
VISION_START = "<|vision_start|>"
LAWS = (
    "Gravity, contact and non-penetration, inertia and conservation of momentum, friction, and conservation "
    "of mass and identity apply to this scene."
)


def structured(brief: str, prompt: Prompt, spec: VideoSpec, *, prefix_frames: int) -> str:
    """The JSON of a prompt: all of it where there is a plan, task and goal alone where there is none.

    brief: the scenario's own sentence. prefix_frames: with padding, as the video has them.
    """
    plan, num_frames = prompt.plan, prefix_frames + spec.num_frames
    goal = prompt.text if plan is None else brief
    fields: dict[str, Any] = {
        "task": f"We are generating a {spec.fps:.0f}fps video with {num_frames} frames based on "
        f"{prefix_frames} conditional frames in {spec.height}p resolution.",
        "camera": _camera(plan),
        "goal": f'The ultimate goal of this video is to realize the following task: "{goal}"',
    }
    if plan is not None:
        fields |= {
            "conditional_video": _conditional(plan, spec, prefix_frames),
            "applicable_physics_laws": LAWS,
            "predicted_timeline": list(_timeline(plan, spec, prefix_frames)),
        }
    return json.dumps({key: value for key, value in fields.items() if value}, indent=2, ensure_ascii=False)


def with_metadata(text: str, num_frames: int, spec: VideoSpec, *, inverse: bool) -> str:
    """Length and size behind the text, as it was in training; `inverse` says that they are not these."""
    verb = "is not" if inverse else "is"
    length = LENGTH.format(verb=verb, seconds=num_frames / spec.fps, fps=spec.fps)
    size = SIZE.format(verb=verb, height=spec.height, width=spec.width)
    parts = (part.rstrip(".") for part in (text, length, size))
    return " ".join(f"{part}." for part in parts if part)


def negative_text(text: str, num_frames: int, spec: VideoSpec, defaults: Cosmos3Defaults) -> str:
    mode = defaults.negative_metadata
    return text if mode == NONE else with_metadata(text, num_frames, spec, inverse=mode == INVERSE)


def token_ids(tokenizer: Any, text: str, *, system: bool, most: int) -> list[int]:
    """L ids of one text in the chat template, with the marks that end it and begin the video.

    Raises ModelError for more than `most`.
    """
    turns = [{"role": "system", "content": SYSTEM}] if system else []
    encoded = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": text}],
        tokenize=True,
        add_generation_prompt=True,
        add_vision_id=False,
        return_dict=True,
    )
    start = tokenizer.convert_tokens_to_ids(VISION_START)
    ids = [*encoded["input_ids"], tokenizer.eos_token_id, start]
    if len(ids) > most:
        raise ModelError(
            f"the prompt has {counted(len(ids), 'token')}; at most {most} are planned for: {text[:60]!r}...",
            fix="shorten the prompt, or set max_text_tokens in retake.json of the model folder",
        )
    return ids


def _camera(plan: PhysicsPlan | None) -> str:
    if plan is None:
        return ""
    if plan.camera == "static":
        return "Static, locked-off camera; no pan, no tilt, no zoom, no cuts."
    return f"The camera is {plan.camera}."


def _conditional(plan: PhysicsPlan, spec: VideoSpec, prefix_frames: int) -> str:
    there = _sentence("There is", [f"{entry.trait} {entry.name}".strip() for entry in plan.objects])
    moving = [f"The {m.object} moves {m.direction} at {m.speed} speed." for m in plan.motion]
    still = _sentence("Still:", list(plan.still))
    shown = " ".join(part for part in (there, *moving, still) if part)
    seconds = spec.prefix_frames / spec.fps
    return (
        f"The task is to generate this video based on the conditional video. The conditional video "
        f"({seconds:.0f} seconds, {prefix_frames} source frames at {spec.fps:.0f}fps) shows: {shown}"
    )


def _timeline(plan: PhysicsPlan, spec: VideoSpec, prefix_frames: int) -> Iterator[dict[str, str]]:
    """What happens in which frames, counted from 1, without a gap from the first frame of the take on."""
    told: dict[int, list[str]] = {}
    for time_s, text in sorted(_moments(plan), key=lambda moment: moment[0]):
        frame = min(max(round(time_s * spec.fps), 0), spec.num_frames - 1)
        told.setdefault(frame, []).append(text)
    if 0 not in told:
        moving = [f"The {m.object} moves {m.direction} at {m.speed} speed." for m in plan.motion]
        told[0] = moving or ["Nothing changes yet."]
    for first, past in pairwise([*sorted(told), spec.num_frames]):
        frames = f"{prefix_frames + first + 1}-{prefix_frames + past}"
        yield {"frames": frames, "text": " ".join(told[first])}


def _moments(plan: PhysicsPlan) -> Iterator[tuple[float, str]]:
    """(seconds after the switch, sentence)."""
    for event in plan.events:
        yield event.t, f"{event.what[:1].upper()}{event.what[1:].rstrip('.')}."
    for rest in plan.rest:
        if rest.t is not None:
            yield rest.t, f"The {rest.object} is at rest."


def _sentence(start: str, things: Sequence[str]) -> str:
    return f"{start} {', '.join(things)}." if things else ""
