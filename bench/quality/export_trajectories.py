"""Denoise trajectories of a generator on simulated scenes, for calibration or verification.

Makes the scenes, runs the engine's own generator on them with real prompts and gives what an exported
transformer would have got. Calibrate with training scenes, verify with held-out ones. Writes no file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.datasets.physics_iq import open_dataset
from engine.demo.layout import write_dataset
from engine.demo.scenes import choose_kinds, make_scene
from engine.demo.scenes.base import FPS, HELD_OUT_SEED0, Scene
from engine.demo.training.prompts import complete
from engine.types import Prompt, Scenario
from export.quantization.calibrate import Forward
from export.quantization.trajectories import record
from export.spec import ExportSpec, Profile

VIEW = "perspective-center"
SEED0 = 880_000
"""Of training scenes. The others lie so far above the border: of no set, and none of `retake demo`."""


def bundled_profile(generator: Any, *, rows: int = 1) -> Profile:
    """The one shape of a Wan generator: its video and the text length of its folder."""
    parts = generator.parts
    stride = parts.vae.config.scale_factor_spatial
    frames = 1 + (generator.spec.prefix_frames + generator.spec.num_frames + 2) // 4
    sizes = {
        "B": rows,
        "F": frames,
        "h": generator.spec.height // stride,
        "w": generator.spec.width // stride,
        "L": parts.max_text_tokens,
    }
    return Profile(name=f"{generator.spec.height}x{generator.spec.width}", sizes=sizes)


def scene_of(index: int, num_scenes: int, *, held_out: bool) -> Scene:
    """One of so many, of the world that the bundled models know; neighbours among its kinds are alike."""
    kinds = choose_kinds([])
    first = (HELD_OUT_SEED0 if held_out else 0) + SEED0
    return make_scene(first + index, [kinds[index * len(kinds) // num_scenes]])


def requests(
    folder: Path, num_scenes: int, *, held_out: bool, negative: str
) -> Iterator[tuple[Scenario, Prompt]]:
    """Scenes of kinds as different as can be, each with the prompt of its true plan."""
    scenes = [scene_of(index, num_scenes, held_out=held_out) for index in range(num_scenes)]
    write_dataset(folder, scenes, fps=FPS, views=(VIEW,))
    for index, (scene, scenario) in enumerate(
        zip(scenes, open_dataset(folder).scenarios(float(FPS)), strict=True)
    ):
        text = complete(scene.brief, scene.truth)
        yield scenario, Prompt(text=text, negative=negative, seed=index, revision=0)


def collect(spec: ExportSpec, generator: Any, num_scenes: int, *, held_out: bool) -> Iterator[Forward]:
    """The forwards of `num_scenes` takes, one scene after another."""
    with tempfile.TemporaryDirectory() as folder:
        asked = requests(Path(folder), num_scenes, held_out=held_out, negative=generator.negative_prompt)
        yield from record(generator, asked, spec)
