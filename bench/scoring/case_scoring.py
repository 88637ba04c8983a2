"""Scores the clips of cases, many cases at a time, one process per core, and resumes what was interrupted.

Knows no folder layout: a `Work` names its files. A result is kept by the digests of its clip and of the real
takes, so that it is found again after an interrupt and never outlives a change of either.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from bench.files import write_whole
from bench.scoring.clip_stream import stream_clip
from bench.scoring.file_digests import missing_file, sha256
from bench.scoring.frame_errors import FrameErrors, SquaredErrors
from bench.scoring.reference_cache import RealTakes, ReferenceCache, compare_motion, read_pair
from bench.scoring.references import Reference, ReferenceKey, reference_key
from bench.scoring.view_metrics import Case, CaseMetrics
from engine.datasets.physics_iq import Description
from engine.errors import ScorerError, VideoError
from engine.runs.digests import FileDigests
from engine.settings.environment import usable_cores
from engine.types import Frames

Progress = Callable[[int, int], None]
"""Cases done, and all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One case with all clips to be scored on it, so that its references are read together."""

    reference: Reference
    clips: tuple[tuple[int, Path], ...]  # attempt number or CHOSEN, file
    fps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unscored:
    scenario_id: str
    reason: str
    attempt: int | None = None  # None: the submission's clip


CHOSEN = -1  # the label of a submission's clip among attempt numbers
MOST_WAITING = 8  # reduced frames of a clip whose errors are yet to be computed; 1.5 MB each


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clip:
    """A clip of a work; `digest` of its content where results are kept, `result` if it needs no measuring."""

    label: int
    path: Path
    digest: str | None = None
    result: CaseMetrics | VideoError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One work's results by label; `key` is None when the real clips could not be read."""

    key: ReferenceKey | None
    results: tuple[tuple[int, Case | Unscored], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """`cache` is a folder for references, results and digests; None keeps nothing between runs."""

    cache: Path | None
    threads: int = 1  # of each decoder
    device: str = "cpu"  # of the squared errors; the same bits on each

    def score(self, work: Work) -> Finished:
        """Every clip of one case, scored or with the reason why not."""
        row = work.reference.row
        try:
            digests, sizes = FileDigests(self._folder("digests")), self._folder("sizes")
            key = reference_key(work.reference, work.fps, digests, sizes)
            clips = [self._known(key, label, path) for label, path in work.clips]
            todo = [clip for clip in clips if clip.result is None]
            made = self._measure(work, key, todo) if todo else {}
        except VideoError as error:
            return Finished(
                key=None, results=tuple((label, _unscored(row, label, error)) for label, _ in work.clips)
            )
        found = [(clip.label, clip.result or made[clip.label]) for clip in clips]
        return Finished(key=key, results=tuple((label, _result(row, label, value)) for label, value in found))

    def _measure(
        self, work: Work, key: ReferenceKey, clips: Sequence[_Clip]
    ) -> dict[int, CaseMetrics | VideoError]:
        """By label. Raises VideoError when the real clips are unusable."""
        references = ReferenceCache(folder=self._folder("references"))

        def measure(takes: RealTakes) -> dict[int, CaseMetrics | VideoError]:
            return {clip.label: self._measured(takes, clip) for clip in clips}

        return references.use(work.reference, key, measure, self.threads)

    def _measured(self, takes: RealTakes, clip: _Clip) -> CaseMetrics | VideoError:
        try:
            metrics = measure_clip(takes, clip.path, self.threads, errors_on(self.device))
            if clip.digest is not None and clip.digest == sha256(clip.path):
                write_whole(self._place(takes.key, clip.digest), json.dumps(asdict(metrics)).encode())
        except VideoError as error:
            return error
        return metrics

    def _known(self, key: ReferenceKey, label: int, path: Path) -> _Clip:
        """With the result of an earlier run on this clip's content, if there is one."""
        if self.cache is None:
            return _Clip(label=label, path=path, result=None if path.is_file() else missing_file(path))
        try:
            digest = sha256(path)
            metrics = _read_metrics(json.loads(self._place(key, digest).read_bytes()))
        except VideoError as error:
            return _Clip(label=label, path=path, result=error)
        except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: measured again
            return _Clip(label=label, path=path, digest=digest)
        return _Clip(label=label, path=path, digest=digest, result=metrics)

    def _place(self, key: ReferenceKey, clip_digest: str) -> Path:
        assert self.cache is not None, "nothing is kept"
        name = hashlib.sha256(f"{key.text} {clip_digest}".encode()).hexdigest()
        return self.cache / "results" / name[:2] / f"{name[2:]}.json"

    def _folder(self, name: str) -> Path | None:
        return None if self.cache is None else self.cache / name


@functools.cache
def errors_on(device: str) -> FrameErrors:
    """One for each process, which works on one frame at a time. torch is imported for a GPU only."""
    if device == "cpu":
        return SquaredErrors()
    from bench.scoring.frame_errors_torch import TorchSquaredErrors

    return TorchSquaredErrors(device)


def measure_clip(
    takes: RealTakes, clip: Path, threads: int = 1, errors: FrameErrors | None = None
) -> CaseMetrics:
    """Compare a generated clip with both takes in one pass. VideoError when it is too short or unreadable."""
    real = [takes.frames(take) for take in (0, 1)]
    errors = errors or SquaredErrors()
    found: list[Future[list[float]]] = []

    def errors_of(frame: Frames) -> list[float]:
        return errors(frame, [next(frames) for frames in real])

    # A third of the work is reading real frames and the errors: with a core to spare, nobody waits for it.
    with ThreadPoolExecutor(1, "retake-errors") as beside:

        def compare(frame: Frames) -> None:
            if len(found) >= MOST_WAITING:
                found[-MOST_WAITING].result()
            found.append(beside.submit(errors_of, frame))

        key = takes.key
        motion = stream_clip(clip, key.size, key.fps, key.num_frames, compare, threads)
        mse = list(zip(*(future.result() for future in found), strict=True))
    return CaseMetrics(
        take1=compare_motion(takes.motion[0], motion, list(mse[0])),
        take2=compare_motion(takes.motion[1], motion, list(mse[1])),
        variance=takes.variance,
    )


def score_works(
    scorer: Scorer, works: Sequence[Work], *, jobs: int | None = None, progress: Progress | None = None
) -> list[Finished]:
    """All works, in their order, in `jobs` processes. An interrupt keeps the finished ones in the cache.

    Raises ScorerError when a process dies.
    """
    jobs = min(jobs or usable_cores(), len(works))
    _tell(progress, 0, len(works))
    if jobs <= 1:
        finished = []
        for work in works:
            finished.append(scorer.score(work))
            _tell(progress, len(finished), len(works))
        return finished
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        with _interrupts_ignored():  # by the processes that start here: the parent stops them, case by case
            futures = [pool.submit(scorer.score, work) for work in works]
        try:
            return _collected(futures, progress)
        except BrokenProcessPool as error:
            raise ScorerError(
                f"one of {jobs} scoring processes died, probably for lack of memory",
                fix="repeat with a lower --jobs; finished cases are kept",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _collected(futures: Sequence[Future[Finished]], progress: Progress | None) -> list[Finished]:
    for count, future in enumerate(as_completed(futures), start=1):
        future.result()
        _tell(progress, count, len(futures))
    return [future.result() for future in futures]


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process that is started inside ignores them too, from its first instruction on."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _read_metrics(record: dict[str, Any]) -> CaseMetrics:
    return CaseMetrics(
        take1=read_pair(record["take1"]),
        take2=read_pair(record["take2"]),
        variance=read_pair(record["variance"]),
    )


def _result(row: Description, label: int, value: CaseMetrics | VideoError) -> Case | Unscored:
    if isinstance(value, VideoError):
        return _unscored(row, label, value)
    return Case(
        scenario_id=row.scenario_id, scene=row.scene, view=row.view, category=row.category, metrics=value
    )


def _unscored(row: Description, label: int, error: VideoError) -> Unscored:
    return Unscored(
        scenario_id=row.scenario_id, reason=error.problem, attempt=None if label == CHOSEN else label
    )
