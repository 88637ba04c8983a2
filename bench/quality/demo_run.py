"""One run of `retake demo`, pinned: a few frames and both scores of each scene, of which a picture is made.

    retake demo --out runs/pinned
    python -m bench.quality.demo_run runs/pinned --out bench/results/demo_run.json

Scores nothing: `retake demo` has scored every take. Invariant: every scene of the run is shown.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from bench.analysis.scored_run import ScoredRun, read_run
from bench.console import user_error
from bench.files import write_json
from bench.quality.demo_quality import published_manifest
from bench.scoring.references import references
from engine.datasets.physics_iq import kind_of, read_descriptions
from engine.errors import RetakeError, ScorerError
from engine.types import Frames
from engine.video.files import probe, read_frames
from engine.words import counted

KIND, SCHEMA = "demo_run", 1
SECONDS = (1.0, 3.0, 5.0)
"""After the switch, of the frames that are shown."""
SIDE_PX, JPEG_QUALITY = 96, 85


def pin(run: Path) -> dict[str, Any]:
    """The document. ScorerError for a run in which a scenario failed or a needed take has no score."""
    scored = read_run(run)
    if scored.failed or not scored.scenarios:
        raise ScorerError(
            f"{counted(len(scored.failed), 'scenario')} of {run} failed, {len(scored.scenarios)} did not",
            fix="pin a run in which every scenario was done",
        )
    dataset = scored.config.dataset
    real = references(dataset, read_descriptions(dataset), scored.fps)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "command": "retake demo --out RUN && python -m bench.quality.demo_run RUN",
        "manifest": published_manifest(run),
        "seconds": list(SECONDS),
        "scenes": [_scene(scored, name, real[name].takes[0]) for name in scored.scenarios],
    }


def _scene(scored: ScoredRun, name: str, real: Path) -> dict[str, Any]:
    scenario, outcome, chosen = scored.scenarios[name], scored.outcomes[name], scored.chosen(name)
    for index in (0, chosen):
        if (name, index) not in scored.records:
            raise ScorerError(f"take {index} of {name} has no score", fix="see `retake score`")
    return {
        "id": name,
        "scene": kind_of(scored.records[name, 0].scene),
        "text": scenario.text,
        "num_takes": len(outcome.attempts),
        "take": chosen,
        "stopped": outcome.own.stopped,
        "first": scored.records[name, 0].score,
        "chosen": scored.records[name, chosen].score,
        "prefix": _jpeg(read_frames(probe(scenario.prefix.path))[-1]),
        "real": _frames(real),
        "made": _frames(scored.folder / outcome.attempts[chosen].video_path),
    }


def _frames(path: Path) -> list[str]:
    """The frame that is shown just before each of SECONDS."""
    clip = probe(path)
    frames = read_frames(clip)
    return [_jpeg(frames[min(round(seconds * clip.fps), len(frames)) - 1]) for seconds in SECONDS]


def _jpeg(frame: Frames) -> str:
    """frame: uint8 RGB [H, W, 3]. A JPEG of SIDE_PX in base64."""
    small = cv2.resize(frame, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)
    assert done, f"no JPEG of {frame.shape}"
    return base64.b64encode(data.tobytes()).decode("ascii")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.demo_run", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder of retake demo")
    parser.add_argument("--out", type=Path, required=True, help="replaced if it exists")
    options = parser.parse_args(arguments)
    try:
        write_json(options.out, pin(options.run))
    except RetakeError as error:
        return user_error(error)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
