"""Run folders with made-up scores, so that the right figures of tables and measurements are known by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from critiques import bare_critique

from bench.scoring.case_record import PairMeans
from engine.runs.store import RunStore
from engine.settings.config import GeneratorConfig, LoopConfig, RunConfig, write_config
from engine.types import (
    Attempt,
    Clip,
    Frames,
    Outcome,
    Prompt,
    Scenario,
)
from engine.video.files import write_mp4

VARIANCE = PairMeans(spatial=0.5, weighted_spatial=0.5, spatiotemporal=0.5, mse=0.0, num_frames=40)


@dataclass(frozen=True)
class Made:
    """A take: its place in the loop, what it would score, what it looks like and what the critic said."""

    round: int
    verified: float
    original: float | None = None  # None: as the Verified score
    sample: int = 0
    shade: int | None = None  # None: the file is empty, for tests in which nobody looks
    critic: float | None = None


def scenario_of(number: int, *, scene: str | None = None) -> Scenario:
    clip = Clip(path=Path("prefix.mp4"), fps=8.0, num_frames=24, width=32, height=32)
    name = f"{number:04d}_perspective-center"
    return Scenario(
        id=name, text="a", prefix=clip, category="Optics", output_name=f"{name}_{scene or f's-{number}'}.mp4"
    )


def make_run(
    folder: Path,
    takes: Sequence[Sequence[Made]],
    *,
    chosen: Sequence[int] = (),
    seed: int = 0,
    steps: int | None = 16,
    only_incomplete: bool = False,
    manifest: Mapping[str, Any] | None = None,
    scored: bool = True,
    first_number: int = 1,
) -> Path:
    """One scenario for each entry of `takes`; an empty one failed. `chosen` names takes, default the last."""
    scenarios = [scenario_of(first_number + position) for position in range(len(takes))]
    config = RunConfig(
        dataset=folder.parent / "dataset",
        out=folder,
        generator=GeneratorConfig(steps=steps),
        loop=LoopConfig(seed=seed, only_incomplete=only_incomplete),
    )
    entries = []
    with RunStore.create(folder, scenarios) as store:
        write_config(config, folder / "config.toml")
        (folder / "manifest.json").write_text(json.dumps({"manifest_version": 1, **(manifest or {})}))
        for position, (scenario, made) in enumerate(zip(scenarios, takes, strict=True)):
            attempts = [_record(store, scenario, index, take) for index, take in enumerate(made)]
            entries += [entry_of(scenario.id, index, take) for index, take in enumerate(made)]
            if not made:
                store.outcome(Outcome(scenario_id=scenario.id, attempts=(), failure="the clip is damaged"))
                continue
            kept = chosen[position] if chosen else len(made) - 1
            store.outcome(
                Outcome(scenario_id=scenario.id, attempts=tuple(attempts), chosen=kept, stopped="loops")
            )
    if scored:
        write_scores(folder, entries)
    return folder


def write_scores(folder: Path, entries: Sequence[Mapping[str, Any]], *, fps: float = 8.0) -> None:
    document = {"fps": fps, "cases": [], "attempts": list(entries), "unscored": []}
    (folder / "scores.json").write_text(json.dumps(document))


def entry_of(scenario_id: str, index: int, take: Made, *, scene: str | None = None) -> dict[str, Any]:
    """As in scores.json. All overlaps are equal and there is no error: the original score is their ratio."""
    original = take.verified if take.original is None else take.original
    overlap = original / 100 * VARIANCE.spatial
    found = PairMeans(
        spatial=overlap, weighted_spatial=overlap, spatiotemporal=overlap, mse=0.0, num_frames=40
    )
    return {
        "scenario_id": scenario_id,
        "scene": scene or f"trimmed-scene-{scenario_id[:4]}",
        "view": "perspective-center",
        "category": "Optics",
        "score": take.verified,
        "attempt": index,
        "means": {"found": asdict(found), "variance": asdict(VARIANCE)},
    }


def grey(shade: int) -> Frames:
    return np.full((40, 32, 32, 3), shade, np.uint8)


def _record(store: RunStore, scenario: Scenario, index: int, take: Made) -> Attempt:
    path = store.video_path(scenario.id, index)
    if take.shade is None:
        (store.folder / path).touch()
    else:
        write_mp4(store.folder / path, grey(take.shade), 8.0)
    attempt = Attempt(
        index=index,
        prompt=Prompt(text="a", negative="", seed=index, revision=take.round),
        video_path=path,
        critique=None if take.critic is None else bare_critique(take.critic),
        round=take.round,
        sample=take.sample,
    )
    store.attempt(scenario.id, attempt)
    return attempt
