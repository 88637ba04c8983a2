"""The composition root: settings in, a run that is checked, loaded and wired out. Only it knows everyone.

Holds no algorithm. The order is the point: settings, folders, dataset and memory are refused before a weight
is read, models are loaded before a run folder exists, and from then on nothing that was finished is lost.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.build import exported
from engine.build.prepare import Prepared, load, prepare, refinement_policy, replies_at_once
from engine.build.relief import Relief
from engine.build.used_memory import note_used
from engine.denoise.lora import lora_files
from engine.errors import StoreError
from engine.loop import boundary
from engine.loop.lanes import CRITIQUE, GENERATE, HOST_THREADS, Threads, make_lanes
from engine.loop.policy import scenario_seed
from engine.loop.scenario import Components, ScenarioLoop
from engine.loop.scheduler import Scheduler
from engine.loop.selection import TakeScorer
from engine.machine.device import release_memory
from engine.machine.graphs import DEVICE_CALLS
from engine.machine.streams import HostPool, HostThread, LaneStreams
from engine.protocols import Critic, Display, Generator, Sink
from engine.runs.changes import changes, listed
from engine.runs.digests import Ahead, FileDigests
from engine.runs.folder import DATABASE, writing
from engine.runs.log_file import RunLog
from engine.runs.manifest import (
    MANIFEST,
    Digest,
    collect,
    model_files,
    read_manifest,
    surroundings,
    write_manifest,
)
from engine.runs.store import RunStore
from engine.runs.trace import CudaRecorder, HostRecorder
from engine.runs.trace_file import end_of_trace_s, kept_trace
from engine.runs.watched import Watched
from engine.settings.config import RunConfig, read_config, write_config
from engine.settings.environment import cache_folder, usable_cores
from engine.types import Outcome, Scenario, Video
from engine.video.files import is_readable, write_mp4
from engine.video.oddities import oddity_of


class Run:
    """A run folder with its models loaded; a context that closes the store. `execute` runs it to the end."""

    def __init__(
        self,
        store: RunStore,
        log: RunLog,
        prepared: Prepared | None,
        loaded: tuple[Generator, Critic] | None,
        loaded_bytes: Mapping[str, int] | None = None,
    ) -> None:
        """`prepared` is None when every scenario has its outcome, `loaded` when no other one is usable.

        `loaded_bytes`: what each model took of a GPU, where that was measured."""
        self.folder = store.folder
        self._store = store
        self._log = log
        self._prepared = prepared
        self._loaded = loaded
        self._loaded_bytes = loaded_bytes or {}
        self.warning = None if loaded is None else loaded[0].notes.get(exported.FALLBACK)
        self.changed = () if prepared is None else prepared.changed
        """Settings that were changed so that the run fits, with their price."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()
        self._log.close()

    @property
    def num_pending(self) -> int:
        return 0 if self._prepared is None else len(self._prepared.scenarios)

    def execute(self, display: Display) -> dict[str, Outcome]:
        """Outcomes of all scenarios by id, also of earlier processes. DeviceError when the GPU is lost."""
        if self._prepared is not None:
            sink = Watched(self._store, display)
            unwritable = self._store.unwritable(self._prepared.usable)
            prepared = replace(self._prepared, refused={**self._prepared.refused, **unwritable})
            for scenario_id, reason in prepared.refused.items():
                attempts = self._store.attempts(scenario_id)
                sink.outcome(Outcome(scenario_id=scenario_id, attempts=attempts, failure=reason))
                display.finished([scenario_id])
            if self._loaded is not None and prepared.usable:
                self._generate(prepared, *self._loaded, sink, display)
        return self._store.outcomes()

    def _generate(
        self, prepared: Prepared, generator: Generator, critic: Critic, sink: Watched, display: Display
    ) -> None:
        import torch

        config, scenarios = prepared.config, prepared.usable
        origin_s = end_of_trace_s(self.folder)
        on_gpu = prepared.device == "cuda"
        recorder = CudaRecorder(origin_s=origin_s) if on_gpu else HostRecorder(origin_s=origin_s)
        sink.timed_by(recorder)
        scorer = self._scorer(prepared, generator)
        self._store.opened(prepared.opened)
        on_lane = LaneStreams(torch.device(prepared.device))
        relief = Relief(generator, release_memory if on_gpu else lambda: None)
        with (
            boundary.watch(
                config.dataset, own=self.folder, allowed=[scenario.prefix.path for scenario in scenarios]
            ) as watch,
            HostPool(HOST_THREADS) as host,
            lane_threads(on_gpu and config.schedule.overlap, relief) as threads,
            kept_trace(self.folder, recorder) as note,
            note_used(self.folder, prepared, self._loaded_bytes, on_lane.streams, relief.record),
        ):
            lanes = make_lanes(
                host=host,
                recorder=recorder,
                progress=display,
                on_lane=on_lane,
                threads=threads,
                widths={CRITIQUE: replies_at_once(config, prepared.device)},
            )
            components = self._components(prepared, generator, critic, sink, scorer)
            scheduler = Scheduler(
                self._loops(scenarios, components),
                lanes,
                progress=display,
                overlap=config.schedule.overlap,
                ahead=config.schedule.ahead,
            )
            try:
                for outcome in scheduler.run():  # each is stored and shown by the sink
                    if scorer is not None:
                        scorer.forget(outcome.attempts)
                    self._store.opened(watch.new_paths())
                    note()
            finally:
                self._store.opened(watch.paths())  # all: an interrupt may have cut a note short

    def _loops(self, scenarios: Sequence[Scenario], by: Components) -> list[ScenarioLoop]:
        return [ScenarioLoop(scenario=one, by=by, past=self._store.history(one.id)) for one in scenarios]

    def _scorer(self, prepared: Prepared, generator: Generator) -> TakeScorer | None:
        names = refinement_policy(prepared.config, generator, prepared.choosing.gain).video_selectors
        return TakeScorer(self.folder, {name: prepared.selectors[name] for name in names}) if names else None

    def _components(
        self,
        prepared: Prepared,
        generator: Generator,
        critic: Critic,
        sink: Sink,
        scorer: TakeScorer | None,
    ) -> Components:
        return Components(
            generator=generator,
            critic=critic,
            policy=refinement_policy(prepared.config, generator, prepared.choosing.gain),
            sink=sink,
            encode=encoder(self._store),
            select=scorer.scores if scorer else None,
            read=scorer.read if scorer else None,
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


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    began_s = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - began_s


def build_run(config: RunConfig) -> Run:
    """A new run in `config.out`. Raises the RetakeError of whatever does not fit, cheapest checks first."""
    if (config.out / DATABASE).exists():
        RunStore.claim(config.out, ())  # refuses, with the way out
    with ExitStack() as refused:
        log = RunLog()
        refused.callback(log.close)
        seconds, loaded_bytes = dict[str, float](), dict[str, int]()
        with _timed(seconds, "prepare"):
            prepared = prepare(config)
        config = prepared.config  # with what was changed so that it fits
        with _facts_ahead(prepared) as ahead:  # weights are read once for their digests, once to load them
            with _timed(seconds, "load"):
                loaded = load(prepared, loaded_bytes)
            denoise = exported.pinned(config.denoise, prepared.exported, loaded[0].notes)
            config = replace(config, denoise=denoise)
            with _timed(seconds, "hash"):  # what is left of it once the models are loaded
                facts = _manifest(replace(prepared, config=config), ahead, loaded[0].notes, loaded[1].notes)
            facts["setup_s"] = seconds
        claim = RunStore.claim(config.out, prepared.scenarios)  # before anything of another run is touched
        refused.callback(claim.close)
        log.into(config.out)
        write_config(config, config.out / "config.toml")  # before the store: whoever finds one can resume it
        write_manifest(config.out / MANIFEST, facts)
        store = RunStore.create(config.out, prepared.scenarios, claim=claim)
        refused.pop_all()
    return Run(store, log, prepared, loaded, loaded_bytes)


def resume_run(
    folder: Path, *, denoiser: str | None = None, accept_changes: bool = False, remake_takes: bool = False
) -> Run:
    """The unfinished and the failed scenarios of a run folder, with its own settings.

    StoreError where a stored take is missing or another one; with `remake_takes` it is forgotten, with those
    that followed from it, and made again. What is missing in `chosen/` is copied there again.

    `denoiser` says where the exported form is now that the run was started with; StoreError for another one.
    StoreError too where models, questions, settings or versions are not those of the manifest; with
    `accept_changes` they are noted there instead, with the number of attempts that were made before.
    """
    with ExitStack() as refused:
        store = RunStore.open(folder)
        refused.callback(store.close)  # so that it can be tried again with what the error says
        log = RunLog()
        refused.callback(log.close)
        log.into(folder)
        config = exported.moved(read_config(folder), denoiser)
        end_of_trace_s(folder)  # refused now, not when the models are loaded
        _mend(store, remake=remake_takes)
        store.forget_failures()
        pending = [scenario.id for scenario in store.pending()]
        prepared = prepare(config, only=pending) if pending else None
        loaded, loaded_bytes = None, dict[str, int]()
        if prepared is not None:
            exported.require_same(prepared.exported, folder / MANIFEST)
            _compare(store, prepared, accept=accept_changes)
            loaded = load(prepared, loaded_bytes) if prepared.usable else None
        refused.pop_all()
        return Run(store, log, prepared, loaded, loaded_bytes)


def _mend(store: RunStore, *, remake: bool) -> None:
    """No take is chosen, nor built upon, that is not the one that was judged."""
    bad = store.damaged_takes(is_readable)
    if bad and not remake:
        raise StoreError(
            f"{store.folder} has {len(bad)} scenarios of which a video is missing or not as it was stored, "
            f"the first {store.video_path(*next(iter(bad.items())))}",
            fix="put them back; or resume with --remake-takes, which makes them and what followed again",
        )
    store.forget_takes(bad)
    store.restore_chosen()


def _compare(store: RunStore, prepared: Prepared, *, accept: bool) -> None:
    """Refuse, or note in the manifest, what the run no longer rests on."""
    path = store.folder / MANIFEST
    with _facts_ahead(prepared) as ahead:
        then, now = read_manifest(path), _manifest(prepared, ahead, {}, {})
    asked = {scenario.id: scenario.text for scenario in store.scenarios()}
    found = [f"text of scenario {s.id}" for s in prepared.scenarios if asked[s.id] != s.text]
    found += changes(then, now) if then else [f"{path.name} is gone, so nothing can be compared"]
    if not found:
        return
    if not accept:
        raise StoreError(
            f"{store.folder} was started with something else:{listed(found)}",
            fix="put it back; or resume with --accept-changes, which notes it in the manifest; or start a new"
            " run",
        )
    made = {scenario.id: len(store.attempts(scenario.id)) for scenario in prepared.scenarios}
    note = {"started": now["started"], "changes": found, "attempts_before": made, "models": now["models"]}
    write_manifest(path, {**then, "resumed": [*then.get("resumed", []), note]})


def encoder(store: RunStore) -> Callable[[Scenario, int, Video], Path]:
    """What writes the video of an attempt into a run folder; RunLost where the disk takes no more."""

    def encode(scenario: Scenario, index: int, video: Video) -> Path:
        path = store.video_path(scenario.id, index)
        with writing(store.folder):
            write_mp4(store.folder / path, video.frames, video.fps, note=oddity_of(video.frames))
        return path

    return encode


@dataclass(frozen=True, slots=True)
class _Facts:
    """Facts for the manifest that are found while something else is done; each waits until it is."""

    digest: Digest
    around: Callable[[], Mapping[str, Any]]


@contextmanager
def _facts_ahead(prepared: Prepared) -> Iterator[_Facts]:
    """Of what the run rests on, while the models are loaded."""
    folders = (prepared.generator.path, prepared.critic.path)
    paths = [path for folder in folders for path in model_files(folder)]
    paths += [scenario.prefix.path for scenario in prepared.usable]
    digests = Ahead(paths, FileDigests(cache_folder() / "digests"), usable_cores())
    with digests, ThreadPoolExecutor(1, "retake-facts") as thread:
        yield _Facts(digests.digest, thread.submit(surroundings).result)


def _manifest(
    prepared: Prepared, ahead: _Facts, denoiser: Mapping[str, str], critic: Mapping[str, str]
) -> dict[str, Any]:
    config = prepared.config
    facts = collect(
        asdict(config),
        {"generator": prepared.generator.path, "critic": prepared.critic.path},
        seeds={scenario.id: scenario_seed(config.loop.seed, scenario.id) for scenario in prepared.scenarios},
        argv=sys.argv,
        digest=ahead.digest,
        around=ahead.around,
    )
    resolved = {"device": prepared.device, "dtype": prepared.dtype, "spec": asdict(prepared.spec)}
    prefixes = {scenario.id: ahead.digest(scenario.prefix.path) for scenario in prepared.usable}
    return {
        **facts,
        "loras": {
            f"{place} {path.name}": ahead.digest(path)
            for place, path in enumerate(lora_files(config.generator.loras), start=1)
        },
        "prefixes": prefixes,  # of an unusable one there is nothing to keep to: it may be mended
        "resolved": resolved,
        "denoiser": dict(denoiser),
        "critic": dict(critic),
        "choosing": prepared.choosing.why,
        "memory": {**prepared.memory.document(), "changed": list(prepared.changed)},
    }
