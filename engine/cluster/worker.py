"""A worker: one whole engine on one GPU, in a process of its own. It has no store; the driver has.

Knows nothing of how it is started, called or lost. Takes lie in a folder of its own only while their scenario
is worked at, so that a disk that is full on one node costs that worker and no more.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from engine.build import exported
from engine.build.engine import Engine, Work, device_name
from engine.build.facts import Facts, facts_ahead, manifest_of
from engine.build.libraries import importing_ahead, without_unused
from engine.build.prepare import Prepared, load, prepare
from engine.build.used_memory import USED
from engine.cluster.messages import (
    Assignment,
    Ended,
    Judged,
    MemoryUsed,
    Message,
    Opened,
    Planned,
    Ranked,
    Ready,
    Scouted,
    Step,
    Taken,
    Worked,
)
from engine.machine.compiled import leave
from engine.machine.device import use_threads
from engine.protocols import Critic, Generator
from engine.runs.folder import VIDEOS, place_of_scout, place_of_take, writing
from engine.runs.log_file import OURS
from engine.runs.manifest import MANIFEST, read_manifest, surroundings
from engine.runs.states import put_states, states_bytes
from engine.runs.trace import CudaRecorder, HostRecorder
from engine.settings.config import RunConfig
from engine.settings.environment import cache_folder, usable_cores
from engine.types import Asked, Attempt, Outcome, PlanReply, Scout

STEP_EVERY_S = 0.5
"""Between two messages on how far a lane is: a person looks at them, and each costs a few hundred us."""


FILES = ("models", "loras", "prefixes")
"""Of a manifest: what holds digests of files."""


class Worker:
    """`work` runs in one thread; meanwhile `give` is called from another."""

    def __init__(self, config: RunConfig, only: Sequence[str] | None, name: str) -> None:
        """`only`: the scenarios that are left of a run that is resumed. `name`: for the log."""
        self._config, self._only, self._name = config, only, name
        self._given: SimpleQueue[Assignment | None] = SimpleQueue()
        self._asked = Asked()
        self._sent: SimpleQueue[Message | None] = SimpleQueue()

    def import_ahead(self) -> None:
        """What takes seconds and needs no GPU, while another worker of this node loads its models."""
        with importing_ahead(self._config):
            pass  # left when all is imported

    def give(self, given: Assignment | Asked | None) -> None:
        """One more scenario; what the user asks of the run now; None: there will be no more scenarios."""
        if isinstance(given, Asked):
            self._asked = given
        else:
            self._given.put(given)

    def look(self) -> Asked:
        """As the control of its engine."""
        return self._asked

    def work(self, *, digest: bool, num_on_node: int, sends_log: bool = True) -> Iterator[Message]:
        """Load the models, then work at what is given, until there will be none.

        digest: whether to digest weights and prefixes, which one worker of a node does. num_on_node: workers
        that share its cores. sends_log: also what this process logs. RetakeError as `build_run` raises it;
        DeviceError and RunLost as `Engine.run`.
        """
        with tempfile.TemporaryDirectory(prefix="retake-worker-") as folder, ThreadPoolExecutor(1) as thread:
            if sends_log:
                self._listen()
            running = thread.submit(without_unused()(self._run), Path(folder), digest, num_on_node)
            running.add_done_callback(lambda _: self._sent.put(None))
            while (message := self._sent.get()) is not None:
                yield message
            leave(cache_folder() / "compiled")  # here, since nobody waits for this process to end by itself
            running.result()  # its error is the worker's

    def loaded(self, generator: Generator, critic: Critic) -> None:
        """For who measures: between loading the models and `Ready`."""

    def _run(self, folder: Path, digest: bool, num_on_node: int) -> None:
        prepared, loaded_bytes = prepare(self._config, only=self._only), dict[str, int]()
        if prepared.device != "cpu":  # on a CPU outcomes depend on it, so it is as of a single run
            use_threads(max(1, usable_cores() // num_on_node))
        with facts_ahead(prepared) if digest else nullcontext() as facts:
            generator, critic = load(prepared, loaded_bytes)
            self.loaded(generator, critic)
            denoise = exported.pinned(prepared.config.denoise, prepared.exported, generator.notes)
            prepared = replace(prepared, config=replace(prepared.config, denoise=denoise))
            ready = Ready(
                scenarios=prepared.scenarios,
                refused=prepared.refused,
                facts=_facts(prepared, generator, critic, facts),
                config=prepared.config,
                changed=prepared.changed,
                told=prepared.told,
                device=device_name(prepared.device),
                warning=generator.notes.get(exported.FALLBACK),
            )
        self._sent.put(ready)
        engine = Engine(
            prepared=prepared, generator=generator, critic=critic, folder=folder, loaded_bytes=loaded_bytes
        )
        sink = _Sender(folder, self._sent.put)
        engine.run(self._work(folder), sink, sink, opened=self._opened, keeping=self._keeping, control=self)
        if used := read_manifest(folder / MANIFEST).get(USED):
            self._sent.put(MemoryUsed(entries=tuple(used)))

    def _work(self, folder: Path) -> Iterator[Work | None]:
        while True:
            try:
                given = self._given.get_nowait()
            except Empty:
                yield None
                continue
            if given is None:
                return
            name = given.scenario.id
            files = {place_of_take(folder, name, number): video for number, video in given.videos.items()}
            files |= {place_of_scout(folder, name, number): clip for number, clip in given.previews.items()}
            for place, (video, states) in files.items():
                with writing(folder):
                    (folder / place).parent.mkdir(parents=True, exist_ok=True)
                    (folder / place).write_bytes(video)
                    put_states(folder, place, states)
            yield given.scenario, given.past

    def _opened(self, paths: Iterable[Path]) -> None:
        if found := tuple(paths):
            self._sent.put(Opened(paths=found))

    @contextmanager
    def _keeping(self, recorder: HostRecorder | CudaRecorder) -> Iterator[Callable[[], None]]:
        yield lambda: self._sent.put(Worked(spans=tuple(recorder.settled())))
        self._sent.put(Worked(spans=tuple(recorder.spans())))

    def _listen(self) -> None:
        """What is logged here, the driver writes into the log of the run."""
        handler = QueueHandler(self._sent)  # type: ignore[arg-type]  # all that it asks for is put_nowait
        handler.setLevel(logging.INFO)
        handler.setFormatter(logging.Formatter(f"worker={self._name} %(message)s"))
        logging.getLogger().addHandler(handler)
        for name in OURS:
            logging.getLogger(name).setLevel(logging.INFO)


class _Sender:
    """The sink and the progress of an engine: all of it becomes messages."""

    def __init__(self, folder: Path, send: Callable[[Message], None]) -> None:
        self._folder = folder
        self._send = send
        self._told_s: dict[str, float] = {}

    def plan(self, scenario_id: str, reply: PlanReply) -> None:
        self._send(Planned(scenario_id=scenario_id, reply=reply))

    def scout(self, scenario_id: str, scout: Scout) -> None:
        video = (self._folder / scout.video_path).read_bytes()
        states = states_bytes(self._folder, scout.video_path)
        self._send(Scouted(scenario_id=scenario_id, scout=scout, video=video, states=states))

    def ranked(self, scenario_id: str, scouts: Sequence[Scout]) -> None:
        self._send(Ranked(scenario_id=scenario_id, scouts=tuple(scouts)))

    def attempt(self, scenario_id: str, attempt: Attempt) -> None:
        video = self._folder / attempt.video_path
        self._send(
            Taken(
                scenario_id=scenario_id,
                attempt=attempt,
                video=video.read_bytes(),
                states=states_bytes(self._folder, attempt.video_path),
            )
        )

    def judged(self, scenario_id: str, attempt: Attempt) -> None:
        self._send(Judged(scenario_id=scenario_id, attempt=attempt))

    def outcome(self, outcome: Outcome) -> None:
        self._send(Ended(outcome=outcome))
        shutil.rmtree(self._folder / VIDEOS / outcome.scenario_id, ignore_errors=True)

    def update(self, lane: str, scenario_id: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done == total or now_s - self._told_s.get(lane, 0.0) >= STEP_EVERY_S:
            self._told_s[lane] = now_s
            self._send(Step(lane=lane, scenario_id=scenario_id, done=done, total=total))

    def finished(self, scenario_ids: Iterable[str]) -> None:
        pass  # said by the outcome


def _facts(prepared: Prepared, generator: Generator, critic: Critic, facts: Facts | None) -> dict[str, Any]:
    """The manifest; without `facts`, that of all but the files."""
    digest = Facts(lambda path: "", surroundings) if facts is None else facts
    found = manifest_of(prepared, digest, generator.notes, critic.notes)
    return found if facts is not None else {k: v for k, v in found.items() if k not in FILES}
