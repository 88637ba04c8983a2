"""Records denoise trajectories of the bundled generator on simulated scenes, for calibration or verification.

Makes the scenes, runs the engine's own generator on them with real prompts and writes what an exported
transformer would have been fed. Calibrate with training scenes, verify with held-out ones.

    python -m bench.quality.export_trajectories --out calibration.safetensors --scenes 6 [--held-out]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.build.model_folders import find_generator
from engine.datasets.physics_iq import open_dataset
from engine.demo.layout import write_dataset
from engine.demo.scenes import choose_kinds, make_scene
from engine.demo.scenes.base import FPS, HELD_OUT_SEED0
from engine.demo.training.prompts import complete
from engine.generators.wan import generator as wan
from engine.types import Prompt, Scenario
from export.calibrate import Forward
from export.spec import ExportSpec, Profile
from export.subjects import wan_dit
from export.trajectories import record, write_forwards

VIEW = "perspective-center"
SEED0 = 880_000
"""Away from the seeds of `retake demo` and of the quality measurement, on both sides of the split."""


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


def requests(
    folder: Path, num_scenes: int, *, held_out: bool, negative: str
) -> Iterator[tuple[Scenario, Prompt]]:
    """Scenes of all kinds in rotation, each with the prompt of its true plan."""
    first = (HELD_OUT_SEED0 if held_out else 0) + SEED0
    scenes = [make_scene(first + index, choose_kinds([])) for index in range(num_scenes)]
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--generator", default="demo")
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--held-out", action="store_true", help="scenes that no training seed reaches")
    options = parser.parse_args(arguments)
    folder = find_generator(options.generator).path
    generator = wan.load(folder, device="cpu", dtype="fp32")
    spec = wan_dit.prepare(folder, profiles=(bundled_profile(generator),), dtype="fp32").spec
    started = time.perf_counter()
    forwards = collect(spec, generator, options.scenes, held_out=options.held_out)
    count = write_forwards(options.out, forwards, spec)
    print(f"{count} forwards of {options.scenes} scenes in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
