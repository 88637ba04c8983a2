"""One whole engine: two loaded models and the lanes of one GPU, which work at scenarios as they come.

Knows no store of a run and no other engine: whoever has one gives it scenarios and takes what it finishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.build.prepare import Prepared, refinement_policy, replies_at_once
from engine.build.relief import Relief
from engine.build.used_memory import note_used
from engine.loop import boundary
from engine.loop.lanes import CRITIQUE, GENERATE, HOST_THREADS, Threads, make_lanes
from engine.loop.policy import RefinementPolicy
from engine.loop.scenario import Components, ScenarioLoop
from engine.loop.scheduler import Scheduler
from engine.loop.scout_policy import ScoutPolicy
from engine.loop.scouting import Scouts
from engine.loop.selection import TakeScorer
from engine.machine.device import release_memory
from engine.machine.graphs import DEVICE_CALLS
from engine.machine.streams import HostPool, HostThread, LaneStreams
from engine.protocols import Control, Critic, Generator, Progress, Selector, Sink
from engine.runs.folder import place_of_scout, place_of_take, writing
from engine.runs.manifest import cpu_model
from engine.runs.states import keep_states
from engine.runs.trace import CudaRecorder, HostRecorder
from engine.settings.loop import SCOUT
from engine.types import Attempt, History, Scenario, Video
from engine.video.differences import disagreement
from engine.video.files import write_mp4
from engine.video.oddities import oddity_of

Work = tuple[Scenario, History]
"""A scenario, and what is stored of it already."""
NOTE_EVERY_S = 2.0
Keeping = Callable[[HostRecorder | CudaRecorder], AbstractContextManager[Callable[[], None]]]
"""As `engine.runs.trace_file.kept_trace`: the block calls what it gets now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """`folder` is where takes are written, where those of a `History` lie, and where the manifest gets what
    memory was taken."""

    prepared: Prepared
    generator: Generator
    critic: Critic
    folder: Path
    loaded_bytes: Mapping[str, int] = field(default_factory=dict)
    """What each model took of a GPU, where that was measured."""

    def run(
        self,
        work: Iterable[Work | None],
        sink: Sink,
        progress: Progress,
        *,
        opened: Callable[[Iterable[Path]], None],
        keeping: Keeping,
        control: Control | None = None,
        origin_s: float = 0.0,
    ) -> None:
        """All of `work`, which is asked for the next scenario when there is room for one; None from it says
        that there is none at the moment.

        opened: told which files were opened, now and then. keeping: keeps the spans of the lanes, of which
        the first starts at `origin_s`. control: what the user asks meanwhile. DeviceError when the GPU is
        lost, RunLost by the sink or a full disk; every other error is its scenario's.
        """
        import torch

        config = self.prepared.config
        on_gpu = self.prepared.device == "cuda"
        recorder = CudaRecorder(origin_s=origin_s) if on_gpu else HostRecorder(origin_s=origin_s)
        opened(self.prepared.opened)
        on_lane = LaneStreams(torch.device(self.prepared.device))
        relief = Relief(self.generator, release_memory if on_gpu else lambda: None)
        policy = refinement_policy(config, self.generator, self.prepared.choosing.gain)
        scorer, scouts = comparers(policy, self.generator, self.folder, self.prepared.selectors)
        allowed = [scenario.prefix.path for scenario in self.prepared.usable]
        with (
            boundary.watch(config.dataset, own=self.folder, allowed=allowed) as watch,
            HostPool(HOST_THREADS) as host,
            lane_threads(on_gpu and config.schedule.overlap, relief) as threads,
            keeping(recorder) as note,
            note_used(self.folder, self.prepared, self.loaded_bytes, on_lane.streams, relief.record),
        ):
            lanes = make_lanes(
                host=host,
                recorder=recorder,
                progress=_Noting(progress, note),
                on_lane=on_lane,
                threads=threads,
                widths={CRITIQUE: replies_at_once(config, self.prepared.device)},
            )
            scheduler = Scheduler(
                self._loops(work, self._components(sink, policy, scorer, scouts)),
                lanes,
                progress=progress,
                overlap=config.schedule.overlap,
                ahead=config.schedule.ahead,
                control=control,
            )
            try:
                for outcome in scheduler.run():  # each is stored and shown by the sink
                    if scorer is not None:
                        scorer.forget(outcome.attempts)
                    opened(watch.new_paths())
                    note()
            finally:
                opened(watch.paths())  # all: an interrupt may have cut a note short

    def _loops(self, work: Iterable[Work | None], by: Components) -> Iterator[ScenarioLoop | None]:
        for one in work:
            yield None if one is None else ScenarioLoop(scenario=one[0], by=by, past=one[1])

    def _components(
        self, sink: Sink, policy: RefinementPolicy, scorer: TakeScorer | None, scouts: Scouts | None
    ) -> Components:
        return Components(
            generator=self.generator,
            critic=self.critic,
            policy=policy,
            sink=sink,
            encode=encoder(self.folder),
            select=scorer.scores if scorer else None,
            read=scorer.read if scorer else None,
            scouts=scouts,
            device=device_name(self.prepared.device),
        )


class _Noting:
    """Progress that is passed on; now and then the lanes' work goes to disk, for whoever looks meanwhile."""

    def __init__(self, progress: Progress, note: Callable[[], None]) -> None:
        self._progress, self._note = progress, note
        self._noted_s = time.monotonic()

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None:
        self._progress.update(lane, scenario_id, done, total)
        now_s = time.monotonic()
        if now_s >= self._noted_s + NOTE_EVERY_S:
            self._noted_s = now_s
            self._note()

    def finished(self, scenario_ids: Iterable[str]) -> None:
        self._progress.finished(scenario_ids)


def device_name(device: str) -> str | None:
    """What the GPU or CPU calls itself; None where a CPU does not say."""
    import torch

    return torch.cuda.get_device_name(device) if device == "cuda" else cpu_model()


def encoder(folder: Path) -> Callable[[Scenario, int, Video], Path]:
    """Writes takes to their places below `folder`, their states beside them; RunLost where it takes no more
    writes."""

    def encode(scenario: Scenario, index: int, video: Video) -> Path:
        path = place_of_take(folder, scenario.id, index)
        with writing(folder):
            write_mp4(folder / path, video.frames, video.fps, note=oddity_of(video.frames))
            keep_states(folder, path, video.states)
        return path

    return encode


def comparers(
    policy: RefinementPolicy, generator: Any, folder: Path, selectors: Mapping[str, Selector]
) -> tuple[TakeScorer | None, Scouts | None]:
    """Who compares finished takes, and who makes and compares scouts; None where the loop has no such thing.

    `generator` makes scouts where the loop asks for them; takes and previews lie below `folder`.
    """
    loop = policy.settings
    of_takes = {name: selectors[name] for name in policy.video_selectors}
    of_scouts = {name: selectors[name] for name in loop.scout_choosers} if loop.method == SCOUT else None
    return (
        TakeScorer(folder, of_takes) if of_takes else None,
        None if of_scouts is None else _scouts(policy, generator, folder, of_scouts),
    )


def _scouts(
    policy: RefinementPolicy, generator: Any, folder: Path, choosers: Mapping[str, Selector]
) -> Scouts:
    scorer = TakeScorer(folder, choosers)

    def preview(scenario: Scenario, number: int, video: Video) -> Path:
        path = place_of_scout(folder, scenario.id, number)
        with writing(folder):
            write_mp4(folder / path, video.frames, video.fps)
            keep_states(folder, path, video.states)
        return path

    def compare(scenario: Scenario, looks: Sequence[Attempt]) -> list[dict[str, float]]:
        try:
            return scorer.scores(scenario, looks)
        finally:
            scorer.forget(looks)

    def differ(looks: Sequence[Attempt]) -> NDArray[np.float32]:
        try:
            return disagreement(scorer.read(look).frames for look in looks)
        finally:
            scorer.forget(looks)

    return Scouts(
        policy=ScoutPolicy(refinement=policy),
        generator=generator,
        preview=preview,
        compare=compare,
        differ=differ,
    )


@contextmanager
def lane_threads(wanted: bool, release: Callable[[], None] = release_memory) -> Iterator[Threads]:
    """A host thread for each lane of the device. On a CPU a step is done when its launch returns, and two at
    once would only share the cores; one job at a time needs none either. `release`: for whoever finds no
    memory."""
    if not wanted:
        yield Threads(release=release)
        return
    with HostThread(GENERATE) as generate, HostThread(CRITIQUE) as critique, HostThread("start") as starts:
        yield Threads(
            of={GENERATE: generate, CRITIQUE: critique},
            starts=starts,
            release=release,
            calling=DEVICE_CALLS.call,
        )
