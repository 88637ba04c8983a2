"""A descriptions.csv in a bare tree, clips whose frames tell their number, and a card that is filled in."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.datasets.physics_iq import COLUMNS, TREES, VIEWS
from engine.types import Frames
from engine.video.files import write_mp4

FPS = 8
NUM_BARS = 8
CARD = "card.yaml"


def counted(num_frames: int, width: int = 32, height: int = 16) -> Frames:
    """Upright bars, black or white, that are the frame's number in binary: a blend of two would be grey."""
    bars = np.arange(width) * NUM_BARS // width
    bits = (np.arange(num_frames)[:, None] >> bars) & 1
    lines = np.where(bits == 1, 230, 20).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(lines[:, None, :, None], (num_frames, height, width, 3)))


def numbers(frames: Frames) -> list[int]:
    """The inverse of `counted`."""
    width = frames.shape[2]
    centres = (2 * np.arange(NUM_BARS) + 1) * width // (2 * NUM_BARS)
    bits = frames[:, frames.shape[1] // 2, centres, 1] > 127
    return [int(number) for number in (bits << np.arange(NUM_BARS)).sum(axis=1)]


def write_clip(path: Path, num_frames: int, fps: float = FPS, size: tuple[int, int] = (32, 16)) -> Path:
    write_mp4(path, counted(num_frames, *size), fps)
    return path


def write_tree(folder: Path, *, num_scenes: int, tree: str = TREES[1]) -> list[str]:
    """A benchmark tree without clips in `folder`; the names that its submissions must have."""
    (folder / tree / "split-videos").mkdir(parents=True)
    count = num_scenes * len(VIEWS)
    cases = [(scene, view) for scene in range(num_scenes) for view in VIEWS]
    names = []
    with (folder / tree / "descriptions.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for take in (1, 2):
            for index, (scene, view) in enumerate(cases):
                number = index + 1 + count * (take - 1)
                name = f"{number:04d}_{view}_trimmed-scene-{scene}.mp4"
                writer.writerow(
                    (
                        f"{number:04d}_{view}_take-{take}_trimmed-scene-{scene}.mp4",
                        f"Scene {scene}.",
                        "Optics",
                        name,
                    )
                )
                names.append(name)
    return names[:count]


def write_conditioning(folder: Path, names: list[str], tree: str = TREES[1]) -> dict[str, Path]:
    """Conditioning clips of frames 0 to 23 in the tree of `write_tree`; by those names."""
    place = folder / tree / "split-videos" / "conditioning" / f"{FPS}FPS"
    paths = {}
    for name in names:
        number, view, scene = name.removesuffix(".mp4").split("_")
        paths[name] = place / f"{number}_conditioning-videos_{FPS}FPS_{view}_take-1_{scene}.mp4"
        write_clip(paths[name], 3 * FPS)
    return paths


def write_run(folder: Path, names: list[str], clip: Path) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        shutil.copyfile(clip, folder / name)
    return folder


def good_card() -> dict[str, Any]:
    return {
        "public_info": {
            "organization": "Some Lab",
            "model": "Some Model 2.1",
            "model_version": "some-model-2.1",
            "input_type": "v2v",
            "parameters": None,
            "fps": FPS,
            "resolution": "32x16",
            "bon_sampling": 1,
            "prompt_upsampling": False,
            "descriptions": "bpp",
            "availability": "public",
            "model_source": "https://example.org/model",
            "date": "2026-10-07",
            "generation_cost": 0.25,
            "generation_gpu": "H100",
            "generation_ngpu": 1,
            "generation_time": 41.5,
        },
        "reported_scores": {
            f"{metric}_{part}": value
            for metric in ("physiq", "spatial_iou", "weighted_spatial_iou", "spatiotemporal_iou", "mse")
            for part, value in (("mean", 50.0), ("std", 1.5))
        },
        "terms": {
            "terms_version": "1.0",
            "terms_accepted": True,
            "accepted_on_behalf_of": "Some Lab Ltd",
            "accepted_at": "2026-10-07T14:00:00Z",
        },
        "warranties": {
            "has_rights_to_submit": True,
            "no_ip_infringement": True,
            "permitted_by_provider_tos": True,
            "no_personal_data_in_content": True,
            "metadata_accurate": True,
        },
    }


def write_card(folder: Path, card: dict[str, Any]) -> Path:
    path = folder / CARD
    path.write_text(yaml.safe_dump(card), encoding="utf-8")
    return path
