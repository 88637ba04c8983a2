"""Writes simulated scenes as a dataset on disk, in exactly the layout of Physics-IQ: names, folders, masks.

Knows no physics and no kind of scene: it asks each for its frames. Truth records go beside the benchmark
tree, where only training and measuring look. Every file appears whole, and existing files are kept: a killed
call is resumed by repeating it. Frames are uint8 RGB [T, H, W, 3], 3 s of prefix and 5 s of answer.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2

from engine.datasets.physics_iq import COLUMNS, TRIMMED, VIEWS, Description
from engine.demo.scenes.base import Labels
from engine.errors import DatasetError
from engine.types import ANSWER_SECONDS, PREFIX_SECONDS, Frames, PhysicsPlan
from engine.video.files import read_frames, write_mp4
from engine.video.motion_masks import masks_of, write_masks
from kernels.files import whole_file

TREE = "physics-IQ-benchmark"
TAKES = (1, 2)


class RenderedScene(Protocol):
    """One experiment. `name` is a unique slug without "_"; equal scenes render equal frames."""

    @property
    def name(self) -> str: ...

    @property
    def category(self) -> str: ...

    @property
    def brief(self) -> str: ...

    @property
    def truth(self) -> PhysicsPlan: ...

    @property
    def labels(self) -> Labels | None: ...

    def render(self, take: int, view: str) -> Frames:
        """Prefix and answer of take 1 or 2 as seen from "left", "center" or "right"."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One row of descriptions.csv and its five files."""

    out: Path
    scene: RenderedScene
    row: Description
    fps: int

    @property
    def paths(self) -> dict[str, Path]:
        tree, rate = self.out / TREE, f"{self.fps}FPS"
        still = f"{self.row.number:04d}_switch-frames_anyFPS_{self.row.view}_{self.row.scene}.jpg"
        places = {
            "full-videos": tree / "full-videos" / self.row.take / rate,
            "conditioning-videos": tree / "split-videos" / "conditioning" / rate,
            "testing-videos": tree / "split-videos" / "testing" / rate,
            "video-masks": tree / "video-masks" / "real" / rate,
        }
        clips = {kind: folder / self.row.file_name(kind, self.fps) for kind, folder in places.items()}
        return {"switch-frames": tree / "switch-frames" / still, **clips}


def write_dataset(
    out: Path,
    scenes: Iterable[RenderedScene],
    *,
    fps: int = 8,
    views: Sequence[str] = VIEWS,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `scenes` under `out`, both takes and every view; `progress(done, total)` counts clips.

    Take 1 has the ids 1 to n * views, take 2 the ids after them, views in the order given. Raises
    DatasetError when `out` already holds other scenes, a view is unknown, or two scenes share a name.
    """
    scenes = list(scenes)
    _check(scenes, views)
    rows = describe(scenes, views)
    _write_once(out / TREE / "descriptions.csv", _csv_text(rows).encode("ascii"), same=True)
    for row in rows:
        if row.take == "take-1":
            scene = scenes[(row.number - 1) // len(views)]
            _write_once(out / "truth" / f"{row.scenario_id}.json", _truth_text(scene), same=True)
    by_scene = [scene for _ in TAKES for scene in scenes for _ in views]
    jobs = [_Job(out=out, scene=scene, row=row, fps=fps) for scene, row in zip(by_scene, rows, strict=True)]
    todo = [job for job in jobs if not all(path.exists() for path in job.paths.values())]
    done = len(jobs) - len(todo)
    if workers <= 1:
        finished: Iterable[None] = map(_write_row, todo)
        for count, _ in enumerate(finished, start=done + 1):
            _report(progress, count, len(jobs))
        return
    context = multiprocessing.get_context(
        "spawn"
    )  # the caller may hold torch threads, which a fork would break
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        for count, _ in enumerate(pool.map(_write_row, todo), start=done + 1):
            _report(progress, count, len(jobs))


def describe(scenes: Sequence[RenderedScene], views: Sequence[str]) -> list[Description]:
    """The rows of descriptions.csv: all of take 1, then all of take 2, view by view within a scene."""
    rows: list[Description] = []
    for take in TAKES:
        for scene in scenes:
            for view in views:
                number, slug = len(rows) + 1, f"{TRIMMED}{scene.name}"
                rows.append(
                    Description(
                        number=number,
                        view=view,
                        take=f"take-{take}",
                        scene=slug,
                        text=scene.brief,
                        category=scene.category,
                        output_name=f"{number:04d}_{view}_{slug}.mp4",
                    )
                )
    return rows


def _write_row(job: _Job) -> None:
    paths = job.paths
    switch = round(PREFIX_SECONDS * job.fps)
    frames = job.scene.render(int(job.row.take[-1]), job.row.view.removeprefix("perspective-"))
    expected = switch + round(ANSWER_SECONDS * job.fps)
    assert len(frames) == expected, f"{job.scene.name}: {len(frames)} frames, not {expected}"
    parts = {"full-videos": frames, "conditioning-videos": frames[:switch], "testing-videos": frames[switch:]}
    for kind, part in parts.items():
        if not paths[kind].exists():
            write_mp4(paths[kind], part, job.fps)
    if not paths["video-masks"].exists():  # of the clip as stored, like the benchmark's own
        seen = read_frames(paths["testing-videos"], like_opencv=True)  # as the evaluator sees other clips
        write_masks(paths["video-masks"], masks_of(seen), job.fps)
    if not paths["switch-frames"].exists():
        bgr = cv2.cvtColor(frames[switch - 1], cv2.COLOR_RGB2BGR)
        encoded: Any = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        _write_once(paths["switch-frames"], encoded.tobytes())


def _check(scenes: Sequence[RenderedScene], views: Sequence[str]) -> None:
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views:
        raise DatasetError(f"{list(views)!r} are not views", fix=f"use some of: {', '.join(VIEWS)}")
    names = [scene.name for scene in scenes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        problem = f"several scenes are named {', '.join(twice[:5])}" if twice else "there are no scenes"
        raise DatasetError(problem, fix="give at least one scene, each with its own name")


def _csv_text(rows: Sequence[Description]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        name = f"{row.number:04d}_{row.view}_{row.take}_{row.scene}.mp4"
        writer.writerow((name, row.text, row.category, row.output_name))
    return text.getvalue()


def _truth_text(scene: RenderedScene) -> bytes:
    """What `PhysicsPlan.from_dict` reads back, with the scene's name, and its labels where it has some."""
    record = {"scene": scene.name, "category": scene.category, "truth": asdict(scene.truth)}
    if scene.labels is not None:
        record["labels"] = asdict(scene.labels)
    return (json.dumps(record, indent=1) + "\n").encode()


def _write_once(path: Path, data: bytes, *, same: bool = False) -> None:
    """Write atomically unless there already. With `same`, other contents there are an error."""
    if path.exists():
        if same and path.read_bytes() != data:
            raise DatasetError(
                f"{path} belongs to other scenes", fix="choose an empty folder, or delete this one"
            )
        return
    with whole_file(path) as part:
        part.write_bytes(data)


def _report(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _one_thread() -> None:
    cv2.setNumThreads(1)
